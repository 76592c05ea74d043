import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type EndedProgram, startProgram } from "#test/support/program.ts";

const DEPLOY = fileURLToPath(new URL("../../local/aws/deploy.ts", import.meta.url));

function deployTo(endpoint: string): Promise<EndedProgram> {
  return startProgram(DEPLOY, [], { AWS_ENDPOINT_URL: endpoint }).ended;
}

test("without LocalStack it explains how to start one, before the build", async () => {
  const { code, stderr } = await deployTo("http://127.0.0.1:1");
  expect(stderr).toMatch(
    /^deploy:local: LocalStack does not answer at http:\/\/127\.0\.0\.1:1 \(.*\): start LocalStack 4\.14\.0 with/,
  );
  expect(stderr).toContain("npm run local:aws");
  expect(code).toBe(2);
});

test.each([
  ["something else", "{}", /the server at .* is not LocalStack/],
  [
    "LocalStack without a service that the stage needs",
    JSON.stringify({ services: { sqs: "running", s3: "available", lambda: "disabled" } }),
    /does not provide cloudformation, iam, lambda, logs: start the one of local\/compose\.yaml/,
  ],
])("%s is refused", async (_, health, reason) => {
  const server = createServer((_request, response) => response.end(health)).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const { code, stderr } = await deployTo(`http://127.0.0.1:${port}`);
  server.close();
  expect(stderr).toMatch(reason);
  expect(code).toBe(2);
});
