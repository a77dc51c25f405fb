// The reference engine on the inputs of the bench: `node reference.mjs JSONATA FOLDER`.
// Each line on standard input is a number of evaluations; the answer is the seconds that they took.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, folder] = process.argv.slice(2);
const { default: jsonata } = await import(pathToFileURL(module).href);
const read = (name) => readFileSync(join(folder, name), "utf8");

const expression = jsonata(read("script.jsonata"));
const inputs = read("inputs.ndjson").trimEnd().split("\n");
const bindings = { event: JSON.parse(read("event.json")) };

async function evaluate(number) {
  const input = JSON.parse(inputs[number % inputs.length]);
  return JSON.stringify(await expression.evaluate(input, bindings));
}

const outputs = [];
for (let number = 0; number < inputs.length; number += 1) {
  outputs.push(await evaluate(number));
}
writeFileSync(join(folder, "reference.ndjson"), outputs.join("\n"));

for await (const line of createInterface({ input: process.stdin })) {
  const began = performance.now();
  for (let number = 0; number < Number(line); number += 1) {
    await evaluate(number);
  }
  console.log((performance.now() - began) / 1000);
}
