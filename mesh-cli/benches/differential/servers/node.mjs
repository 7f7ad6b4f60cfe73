// Node's http server: `node node.mjs PORT CASES SEEN`. It answers by the field x-case and writes what it saw.
import http from 'node:http';
import fs from 'node:fs';
import crypto from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

const [port, cases, seen] = process.argv.slice(2);
const table = new Map(JSON.parse(fs.readFileSync(cases)).map((one) => [one.id, one]));
const pattern = (size) => Buffer.from(Array.from({ length: size }, (_, at) => ((at % 251) * 31 + 7) % 251));
const bytesOf = (body) => (!body ? Buffer.alloc(0) : body.data ? Buffer.from(body.data, 'base64') : pattern(body.size));
const pairs = (raw) => Array.from({ length: raw.length / 2 }, (_, at) => [raw[2 * at], raw[2 * at + 1]]);

async function handle(request, response) {
  const one = table.get(request.headers['x-case']);
  if (!one) return response.writeHead(200).end('ready');
  const digest = crypto.createHash('sha256');
  let size = 0;
  if (!one.answer.early) for await (const part of request) { digest.update(part); size += part.length; }
  fs.appendFileSync(seen, JSON.stringify({
    run: request.headers['x-run'], method: request.method, target: request.url, version: request.httpVersion,
    fields: pairs(request.rawHeaders), size, digest: digest.digest('hex'), trailers: pairs(request.rawTrailers),
  }) + '\n');
  const { status, fields, body, hints, reason, http10 } = one.answer;
  const bytes = bytesOf(body);
  if (http10 || body?.framing === 'close') return byHand(request.socket, one.answer, bytes);
  if (hints) await new Promise((done) => response.writeEarlyHints({ link: hints[0][1] }, done));
  const head = fields.flat();
  if (body?.framing === 'length' && !fields.some(([name]) => name === 'content-length')) head.push('content-length', bytes.length);
  if (one.answer.early) head.push('connection', 'close');
  response.writeHead(status, ...(reason ? [reason] : []), head);
  if (body?.trailers) response.addTrailers(body.trailers);
  const parts = body?.parts ?? 1;
  for (let at = 0; at < parts; at++) {
    if (at) await pause(body.pause_ms);
    const part = bytes.subarray((at * bytes.length) / parts, ((at + 1) * bytes.length) / parts);
    if (part.length) response.write(part);
  }
  response.end();
}

// An answer whose end is its connection's; Node has no way to say it.
function byHand(socket, answer, bytes) {
  const head = [`HTTP/1.${answer.http10 ? 0 : 1} ${answer.status} OK`, ...answer.fields.map(([name, value]) => `${name}: ${value}`)];
  if (!answer.http10) head.push('connection: close');
  socket.end(Buffer.concat([Buffer.from(head.join('\r\n') + '\r\n\r\n', 'latin1'), bytes]));
}

const server = http.createServer(handle);
server.on('checkContinue', (request, response) => {
  if (!table.get(request.headers['x-case'])?.answer.early) response.writeContinue();
  handle(request, response);
});
// A WebSocket that echoes frames of less than 64 KiB.
server.on('upgrade', (request, socket) => {
  const key = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
  const offered = request.headers['sec-websocket-protocol'];
  socket.on('error', () => {});
  socket.write(['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Accept: ${key}`,
    ...(offered ? [`Sec-WebSocket-Protocol: ${offered.split(',')[0]}`] : []), '', ''].join('\r\n'));
  let buffered = Buffer.alloc(0);
  socket.on('data', (data) => {
    buffered = Buffer.concat([buffered, data]);
    for (let frame; (frame = take()); ) {
      socket.write(Buffer.concat([Buffer.from([frame.first, ...(frame.payload.length < 126 ? [frame.payload.length]
        : [126, frame.payload.length >> 8, frame.payload.length & 255])]), frame.payload]));
      if ((frame.first & 15) === 8) return socket.end();
    }
  });
  function take() {
    if (buffered.length < 6) return null;
    const short = buffered[1] & 127;
    const at = short === 126 ? 4 : 2;
    const length = short === 126 ? buffered.readUInt16BE(2) : short;
    if (buffered.length < at + 4 + length) return null;
    const mask = buffered.subarray(at, at + 4);
    const payload = Buffer.from(buffered.subarray(at + 4, at + 4 + length).map((byte, index) => byte ^ mask[index % 4]));
    const first = buffered[0];
    buffered = buffered.subarray(at + 4 + length);
    return { first, payload };
  }
});
server.keepAliveTimeout = 60000;
server.listen(port, '127.0.0.1');
