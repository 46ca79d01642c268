// Prints what the official parser has to say of each document given: [{ errors, others }], by severity (0 is an error).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Parser } = createRequire(process.cwd() + "/")("@asyncapi/parser");
const judged = [];
for (const path of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
  const said = ({ severity, code, message, path }) => ({ severity, code, message, path: path.join("/") });
  judged.push({
    errors: diagnostics.filter((it) => it.severity === 0).map(said),
    others: diagnostics.filter((it) => it.severity > 0).map(said),
    operations: document ? document.operations().all().length : 0,
  });
}
console.log(JSON.stringify(judged, null, 1));
