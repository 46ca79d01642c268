#!/usr/bin/env python3
"""The queue `payments` of the shipped orders, in Python. pip install pika; python3 examples/participant.py [AMQP_URL]"""
import json
import sqlite3
import sys

import pika

db = sqlite3.connect("payments.db", isolation_level=None)
db.execute("CREATE TABLE IF NOT EXISTS answered (idempotency_key TEXT PRIMARY KEY, outcome TEXT, body TEXT)")
db.execute("CREATE TABLE IF NOT EXISTS charges (saga TEXT PRIMARY KEY, amount REAL, state TEXT)")


def charge(saga, body):
    if body["amount"] > 10_000:
        return "failure", {"error": {"code": "limit", "message": "declined"}}
    row = db.execute("INSERT INTO charges VALUES (?, ?, 'charged') ON CONFLICT DO NOTHING", (saga, body["amount"]))
    if row.rowcount == 0:  # refund() was here before: the charge it undoes must not happen any more
        return "failure", {"error": {"code": "undone", "message": "refunded before it was charged"}}
    return "success", {"payment_id": f"payment-{saga}"}


def refund(saga, body):
    # Refund what was charged; and where nothing was yet, leave a row that stops the charge, should it still come.
    db.execute("INSERT INTO charges VALUES (?, 0, 'refunded') ON CONFLICT DO UPDATE SET state = 'refunded'", (saga,))
    return "success", {}


def handle(routing_key, headers, body):
    # One charge for each saga. In a step with `foreach`, `saga-item` says which of its elements: it would belong to the key.
    key, saga, body = headers["idempotency-key"], headers["saga-id"], json.loads(body)
    do = {"payment.charge": charge, "payment.refund": refund}[routing_key]
    db.execute("BEGIN IMMEDIATE")  # the effect and the memory of it: both or neither
    answer = db.execute("SELECT outcome, body FROM answered WHERE idempotency_key = ?", (key,)).fetchone()
    if answer is None:
        outcome, reply = do(saga, body)
        answer = (outcome, json.dumps(reply))
        db.execute("INSERT INTO answered VALUES (?, ?, ?)", (key, *answer))
    db.execute("COMMIT")
    print(routing_key, saga, *answer)
    return answer


def on_command(channel, method, properties, body):
    try:
        outcome, reply = handle(method.routing_key, properties.headers, body)
    except (KeyError, TypeError, ValueError) as error:  # no command, and it never will be: sagad learns of it
        db.rollback()
        print(method.routing_key, "rejected:", repr(error))
        channel.basic_reject(method.delivery_tag, requeue=False)
        return
    channel.basic_publish("", properties.reply_to, reply, pika.BasicProperties(
        correlation_id=properties.correlation_id, delivery_mode=2, headers={"saga-outcome": outcome}))
    channel.basic_ack(method.delivery_tag)  # last, so that a crash before it means a redelivery


url = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672/%2f"
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()  # basic_publish waits until the broker has the answer
channel.basic_qos(prefetch_count=16)
channel.basic_consume("payments", on_command)
channel.start_consuming()
