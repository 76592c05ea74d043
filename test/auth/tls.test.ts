import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { KINDS, SecuredValkey, STRANGER } from "#test/auth/secured.ts";

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

  it("trusts the given authority, as a file or as text, and nobody else", async () => {
    const { environment } = server;
    const expected = kind === "cluster" ? ["PONG", "PONG"] : ["PONG"];
    expect(await pingAll(clientOf(environment))).toEqual(expected);
    const VALKEY_CA = readFileSync(environment.VALKEY_CA ?? "", "utf8");
    expect(await pingAll(clientOf({ ...environment, VALKEY_CA }))).toEqual(expected);
    for (const VALKEY_CA of ["", STRANGER]) {
      await expect(pingAll(clientOf({ ...environment, VALKEY_CA }))).rejects.toThrow(/certificate/);
    }
  });

  it("talks to no server whose certificate is for another name", async () => {
    const url = new URL(server.environment.VALKEY_URL ?? "");
    url.hostname = "127.0.0.1";
    await expect(pingAll(clientOf({ ...server.environment, VALKEY_URL: url.href }))).rejects.toThrow(
      /does not match certificate's altnames/,
    );
  });
});

describe("TLS to the nodes of a cluster", () => {
  it("is refused by a client whom the cluster sends to addresses that the certificate does not name", async () => {
    await using server = await SecuredValkey.start("cluster", 0, []);
    await expect(pingAll(clientOf(server.environment))).rejects.toThrow(
      /does not match certificate's altnames/,
    );
  });
});
