import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const seen = new Set();

createServer(async (req, res) => {
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  let event;
  try {
    event = webhook.verify(Buffer.concat(chunks).toString("utf8"), req.headers);
  } catch {
    res.writeHead(401).end();
    return;
  }
  const id = req.headers["webhook-id"];
  if (!seen.has(id)) {
    seen.add(id);
    console.log(id, event.type, JSON.stringify(event.data));
  }
  res.writeHead(204).end();
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
