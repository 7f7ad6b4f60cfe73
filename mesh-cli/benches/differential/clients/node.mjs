// Node's fetch: `node node.mjs CASES JOBS`, a line of JSON for each exchange.
import fs from 'node:fs';
import crypto from 'node:crypto';

const [cases, jobs] = process.argv.slice(2);
const table = new Map(JSON.parse(fs.readFileSync(cases)).map((one) => [one.id, one]));
const pattern = (size) => Buffer.from(Array.from({ length: size }, (_, at) => ((at % 251) * 31 + 7) % 251));
const bytesOf = (body) => (body.data ? Buffer.from(body.data, 'base64') : pattern(body.size));

function* parts(bytes) {
  for (let at = 0; at < bytes.length; at += 8192) yield bytes.subarray(at, at + 8192);
}

async function exchange({ run, base }, one) {
  const headers = new Headers([['x-run', run], ['x-case', one.id]]);
  for (const [name, value] of one.fields) if (value !== null) headers.append(name, value);
  const init = { method: one.method, headers, redirect: 'manual', signal: AbortSignal.timeout(10000) };
  if (one.body) {
    const bytes = bytesOf(one.body);
    init.body = one.body.framing === 'length' ? bytes : ReadableStream.from(parts(bytes));
    init.duplex = 'half';
  }
  const answer = await fetch(base + one.target.replace('@PORT@', new URL(base).port), init);
  const digest = crypto.createHash('sha256');
  let size = 0, first, last;
  for await (const part of answer.body ?? []) {
    digest.update(part);
    size += part.length;
    last = performance.now();
    first ??= last;
  }
  const fields = [...answer.headers];
  return { run, status: answer.status, reason: answer.statusText, version: '', fields, trailers: [], hints: [], size,
    digest: digest.digest('hex'), streamed: (last ?? 0) - (first ?? 0) > 200, error: null };
}

for (const job of JSON.parse(fs.readFileSync(jobs)).filter((one) => one.client === 'node')) {
  let seen;
  try {
    seen = await exchange(job, table.get(job.case));
  } catch (error) {
    seen = { run: job.run, error: error.cause?.code ?? error.name };
  }
  process.stdout.write(JSON.stringify(seen) + '\n');
}
