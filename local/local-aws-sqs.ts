import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createSqsServer } from "local-aws-sqs";
import { HOST, ownServer, type QueueServer, REGION } from "#local/queue-server.ts";

const ACCOUNT = "000000000000";

/** Starts local-aws-sqs, an implementation that shares no code with fauxqs. */
export async function startLocalAwsSqs(): Promise<QueueServer> {
  const server: Server = await createSqsServer({
    port: 0,
    hostname: HOST,
    region: REGION,
    accountId: ACCOUNT,
    // Otherwise it lists a deleted queue for another minute, as SQS does.
    emulateQueueCreationLifecycle: false,
  });
  const { port } = server.address() as AddressInfo;
  const own = ownServer("local-aws-sqs", `http://${HOST}:${port}`, async () => {
    const closed = once(server, "close");
    server.close();
    // Ends long polls in flight.
    server.closeAllConnections();
    await closed;
  });
  // Unlike in SQS, its long poll waits for a full batch instead of the first message.
  return { ...own, longPollSeconds: 0 };
}
