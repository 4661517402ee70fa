// `node run.mjs FILE`: reads what to ask from its input, does every job of FILE, prints what each gave as JSON.
import { readFileSync } from "node:fs";

const [file] = process.argv.slice(2);
const jobs = (await import(`./${file}`)).default(JSON.parse(readFileSync(0, "utf8")));
const found = {};
for (const [name, job] of Object.entries(jobs)) {
  try {
    found[name] = { value: (await job()) ?? null };
  } catch (error) {
    found[name] = { error: `${error.name}: ${error.message}` };
  }
}
console.log(JSON.stringify(found));
