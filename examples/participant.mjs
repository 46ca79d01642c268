// The queue `payments` of the shipped orders, in JavaScript. npm install amqplib; node examples/participant.mjs [AMQP_URL]
import amqp from "amqplib";
import { DatabaseSync } from "node:sqlite"; // Node 22.13 or later

const db = new DatabaseSync("payments.db");
db.exec("CREATE TABLE IF NOT EXISTS answered (idempotency_key TEXT PRIMARY KEY, outcome TEXT, body TEXT)");
db.exec("CREATE TABLE IF NOT EXISTS charges (saga TEXT PRIMARY KEY, amount REAL, state TEXT)");

const commands = {
  "payment.charge": (saga, { amount }) => {
    if (amount > 10_000) return ["failure", { error: { code: "limit", message: "declined" } }];
    const row = db.prepare("INSERT INTO charges VALUES (?, ?, 'charged') ON CONFLICT DO NOTHING").run(saga, amount);
    if (row.changes) return ["success", { payment_id: `payment-${saga}` }];
    // The refund was here before: the charge that it undoes must not happen any more.
    return ["failure", { error: { code: "undone", message: "refunded before it was charged" } }];
  },
  "payment.refund": (saga) => {
    // Refund what was charged; and where nothing was yet, leave a row that stops the charge, should it still come.
    db.prepare("INSERT INTO charges VALUES (?, 0, 'refunded') ON CONFLICT DO UPDATE SET state = 'refunded'").run(saga);
    return ["success", {}];
  },
};

function handle(routingKey, headers, content) {
  const body = JSON.parse(content);
  // One charge for each saga. In a step with `foreach`, `saga-item` says which of its elements: it would belong to the key.
  const { "saga-id": saga, "idempotency-key": key } = headers;
  db.exec("BEGIN IMMEDIATE"); // the effect and the memory of it: both or neither
  try {
    let answer = db.prepare("SELECT outcome, body FROM answered WHERE idempotency_key = ?").get(key);
    if (!answer) {
      const [outcome, reply] = commands[routingKey](saga, body);
      answer = { outcome, body: JSON.stringify(reply) };
      db.prepare("INSERT INTO answered VALUES (?, ?, ?)").run(key, answer.outcome, answer.body);
    }
    db.exec("COMMIT");
    console.log(routingKey, saga, answer.outcome, answer.body);
    return answer;
  } catch (error) {
    db.exec("ROLLBACK");
    throw error;
  }
}

const connection = await amqp.connect(process.argv[2] ?? "amqp://guest:guest@127.0.0.1:5672/%2f");
const channel = await connection.createConfirmChannel();
await channel.prefetch(16);
await channel.consume("payments", async (message) => {
  const { headers, replyTo, correlationId } = message.properties;
  let answer;
  try {
    answer = handle(message.fields.routingKey, headers, message.content);
  } catch (error) {
    console.log(message.fields.routingKey, "rejected:", error.message);
    return channel.nack(message, false, false); // no command, or a broken one: sagad learns of it
  }
  const properties = { correlationId, persistent: true, headers: { "saga-outcome": answer.outcome } };
  channel.sendToQueue(replyTo, Buffer.from(answer.body), properties);
  await channel.waitForConfirms();
  channel.ack(message); // last, so that a crash before it means a redelivery
});
