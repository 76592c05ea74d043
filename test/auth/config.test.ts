import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { AUTHORITY, CERTIFICATE } from "#test/auth/secured.ts";

const URLS = { tls: "rediss://cache.example:6379", plain: "redis://cache.example:6379" };
const IAM = {
  VALKEY_URL: URLS.tls,
  VALKEY_AUTH: "iam",
  VALKEY_USER: "sluice-dispatch",
  VALKEY_REPLICATION_GROUP: "sluice-prod",
  AWS_REGION: "eu-west-1",
};
const SECRET = { VALKEY_URL: URLS.tls, VALKEY_AUTH: "secret", VALKEY_SECRET: "sluice/valkey" };

function read(env: Record<string, string>): { address: ValkeyAddress; errors: string[] } {
  const errors: string[] = [];
  return { address: readValkey(env, errors), errors };
}

describe("readValkey", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "sluice-test-"));
    writeFileSync(
      join(folder, "broken.pem"),
      "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n",
    );
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it.each([
    ["by the URL", { VALKEY_URL: URLS.plain }, { kind: "url" }],
    [
      "by IAM",
      IAM,
      { kind: "iam", user: "sluice-dispatch", replicationGroup: "sluice-prod", region: "eu-west-1" },
    ],
    ["by a secret", SECRET, { kind: "secret", secretId: "sluice/valkey", user: "" }],
    [
      "by a secret for a user",
      { ...SECRET, VALKEY_USER: "u" },
      { kind: "secret", secretId: "sluice/valkey", user: "u" },
    ],
  ])("authenticates %s", (_, env, auth) => {
    const { address, errors } = read(env);
    expect(errors).toEqual([]);
    expect(address.auth).toEqual(auth);
    expect(address.ca).toBeUndefined();
  });

  it("reads certificates from text or from a file", () => {
    const pem = readFileSync(AUTHORITY, "utf8");
    for (const VALKEY_CA of [AUTHORITY, pem, `${pem}\n# and\n${pem}`]) {
      const { address, errors } = read({ VALKEY_URL: URLS.tls, VALKEY_CA });
      expect(errors).toEqual([]);
      expect(address.ca).toContain(pem);
    }
  });

  it("lists all IAM errors at once", () => {
    const { errors } = read({
      VALKEY_AUTH: "iam",
      VALKEY_URL: "redis://u:hunter2@h",
      VALKEY_USER: "two words",
    });
    for (const start of [
      "VALKEY_URL has a user or password, but VALKEY_AUTH=iam",
      "VALKEY_URL is a redis:// URL, but VALKEY_AUTH=iam requires TLS",
      'VALKEY_USER is "two words"',
      "VALKEY_REPLICATION_GROUP is not set",
      "AWS_REGION is not set",
    ]) {
      expect(errors.filter((error) => error.startsWith(start))).toHaveLength(1);
    }
    expect(errors).toHaveLength(5);
    expect(errors.join()).not.toContain("hunter2");
  });

  it.each([
    ["VALKEY_AUTH", { VALKEY_AUTH: "IAM" }],
    ["VALKEY_USER", { ...IAM, VALKEY_USER: "" }],
    ["VALKEY_REPLICATION_GROUP", { ...IAM, VALKEY_REPLICATION_GROUP: "sluice-prod.abc.cache.amazonaws.com" }],
    ["AWS_REGION", { ...IAM, AWS_REGION: "Ireland" }],
    ["VALKEY_SECRET", { ...SECRET, VALKEY_SECRET: "" }],
    ["VALKEY_URL", { ...SECRET, VALKEY_URL: "rediss://:hunter2@h" }],
    ["VALKEY_CA", { VALKEY_CA: "/no/such/file.pem" }],
    ["VALKEY_CA", { VALKEY_CA: "authority.pem" }],
    ["VALKEY_CA", { VALKEY_CA: CERTIFICATE.key }],
    ["VALKEY_CA", { VALKEY_CA: AUTHORITY, VALKEY_URL: URLS.plain }],
  ])("reports %s as invalid: %o", (name, env) => {
    const { errors } = read({ VALKEY_URL: URLS.tls, ...env });
    expect(errors).toEqual([expect.stringMatching(new RegExp(`^${name} `))]);
    expect(errors.join()).not.toMatch(/hunter2|PRIVATE KEY/);
  });

  it("reports a malformed certificate", () => {
    const { errors } = read({ VALKEY_URL: URLS.tls, VALKEY_CA: join(folder, "broken.pem") });
    expect(errors).toEqual([expect.stringMatching(/^VALKEY_CA is invalid/)]);
  });
});
