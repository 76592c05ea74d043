import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { KINDS, OTHER_AUTHORITY, SecuredValkey } from "#test/auth/secured.ts";

function clientOf(environment: Readonly<Record<string, string>>): Valkey {
  const errors: string[] = [];
  const address = readValkey(environment, errors);
  expect(errors).toEqual([]);
  return new Valkey(address, { onConnectionError: () => undefined });
}

async function pingAll(valkey: Valkey): Promise<unknown[]> {
  try {
    return await Promise.all((await valkey.primaries()).map(({ call }) => call("ping")));
  } finally {
    valkey.close();
  }
}

describe.each(KINDS)("TLS (%s)", (kind) => {
  let server: SecuredValkey;
  beforeAll(async () => {
    server = await SecuredValkey.start(kind);
  });
  afterAll(() => server[Symbol.asyncDispose]());

  it("trusts only the given authority, as a file or as text", async () => {
    const { environment } = server;
    const expected = kind === "cluster" ? ["PONG", "PONG"] : ["PONG"];
    expect(await pingAll(clientOf(environment))).toEqual(expected);
    const VALKEY_CA = readFileSync(environment.VALKEY_CA ?? "", "utf8");
    expect(await pingAll(clientOf({ ...environment, VALKEY_CA }))).toEqual(expected);
    for (const VALKEY_CA of ["", OTHER_AUTHORITY]) {
      await expect(pingAll(clientOf({ ...environment, VALKEY_CA }))).rejects.toThrow(/certificate/);
    }
  });

  it("refuses a server with a certificate for another name", async () => {
    const url = new URL(server.environment.VALKEY_URL ?? "");
    url.hostname = "127.0.0.1";
    await expect(pingAll(clientOf({ ...server.environment, VALKEY_URL: url.href }))).rejects.toThrow(
      /does not match certificate's altnames/,
    );
  });
});

describe("TLS (cluster nodes)", () => {
  it("fails if the cluster announces IP addresses that the certificate does not contain", async () => {
    await using server = await SecuredValkey.start("cluster", 0, []);
    await expect(pingAll(clientOf(server.environment))).rejects.toThrow(
      /does not match certificate's altnames/,
    );
  });
});
