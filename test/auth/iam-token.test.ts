import { describe, expect, it } from "vitest";
import { iamToken } from "#shared/valkey/iam-token.ts";
import { EMPTY_HASH, parsePresigned, signatureOf } from "#test/auth/signature.ts";

/** The keys in AWS's examples. */
const KEYS = {
  AWS_ACCESS_KEY_ID: "AKIAIOSFODNN7EXAMPLE",
  AWS_SECRET_ACCESS_KEY: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
const SESSION = { ...KEYS, AWS_SESSION_TOKEN: "IQoJb3JpZ2luX2VjEXAMPLE+/token==" };
const IDENTITY = { user: "sluice-dispatch", replicationGroup: "Sluice-Prod", region: "eu-west-1" };
const NOON = new Date("2026-11-01T12:00:00Z");

describe("the reference signature of the tests", () => {
  it("equals the one in AWS's example of a presigned request", () => {
    const example = parsePresigned(
      "examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256" +
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request" +
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host",
    );
    expect(signatureOf(example, KEYS.AWS_SECRET_ACCESS_KEY, "UNSIGNED-PAYLOAD")).toBe(
      "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
    );
  });
});

describe("iamToken", () => {
  // Expected signatures: botocore 1.44, the signer of AWS's Python SDK.
  it.each([
    ["without a session", KEYS, "76bb8fca0ac8608c8c409d071cfe0cc1d2cbd72ecdb0e5728a404521869ecb4b"],
    ["with a session", SESSION, "98457e94c2ab8ed3f483d3a18ffd3e56fcfa0bb240ae3194cf4bb2e212fd34b5"],
  ])("has the same signature as AWS's signer (%s)", async (_, env, signature) => {
    const { query } = parsePresigned(await iamToken(IDENTITY, env, NOON));
    expect(query.get("X-Amz-Signature")).toBe(signature);
  });

  it("is a presigned request without its scheme, valid for 15 minutes", async () => {
    const token = await iamToken(IDENTITY, SESSION, NOON);
    const request = parsePresigned(token);
    expect(token.startsWith("sluice-prod/?")).toBe(true);
    const { "X-Amz-Signature": signature, ...rest } = Object.fromEntries(request.query);
    expect(rest).toEqual({
      Action: "connect",
      User: "sluice-dispatch",
      "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
      "X-Amz-Credential": "AKIAIOSFODNN7EXAMPLE/20261101/eu-west-1/elasticache/aws4_request",
      "X-Amz-Date": "20261101T120000Z",
      "X-Amz-Expires": "900",
      "X-Amz-Security-Token": SESSION.AWS_SESSION_TOKEN,
      "X-Amz-SignedHeaders": "host",
    });
    expect(signature).toBe(signatureOf(request, KEYS.AWS_SECRET_ACCESS_KEY, EMPTY_HASH));
  });

  it("reads the credentials again for each token", async () => {
    const env: Record<string, string> = { ...SESSION };
    const first = await iamToken(IDENTITY, env, NOON);
    Object.assign(env, { AWS_ACCESS_KEY_ID: "AKIDROTATED", AWS_SESSION_TOKEN: "rotated" });
    const second = await iamToken(IDENTITY, env, NOON);
    expect(first).not.toContain("AKIDROTATED");
    expect(parsePresigned(second).query.get("X-Amz-Credential")).toMatch(/^AKIDROTATED\//);
    expect(parsePresigned(second).query.get("X-Amz-Security-Token")).toBe("rotated");
  });

  it.each(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])(
    "fails with the reason if %s is missing",
    async (name) => {
      const failure = iamToken(IDENTITY, { ...SESSION, [name]: "" }, NOON);
      await expect(failure).rejects.toMatchObject({ name: "ValkeyError", retryable: true });
      await expect(failure).rejects.toThrow(/cannot sign a token.*AWS_ACCESS_KEY_ID/);
    },
  );
});
