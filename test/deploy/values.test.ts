import { expect, it } from "vitest";
import { addressHash } from "../../deploy/values.ts";

function hashFor(address: string, stage = "prod"): Promise<string> {
  const values: Readonly<Record<string, string>> = { "param:valkeyUrl": address, "sls:stage": stage };
  return addressHash({ resolveVariable: async (variable) => values[variable] });
}

it.each([
  "rediss://user:hunter2@valkey.example.com:6379",
  "rediss://:hunter2@valkey.example.com",
  "rediss://:hunter2,hunter2@valkey.example.com",
  "rediss://user:hunter2@a.example.com:6379,b.example.com:6379",
  "rediss://a.example.com:6379,rediss://user:hunter2@b.example.com:6379",
  "user:hunter2@valkey.example.com",
])("the password of %s is refused for AWS, without showing it", async (address) => {
  await expect(hashFor(address)).rejects.toThrow("valkeyUrl contains a password");
  await expect(hashFor(address)).rejects.not.toThrow("hunter2");
  expect(await hashFor(address, "local")).toMatch(/^[0-9a-f]{64}$/);
});

it.each([
  "rediss://valkey.example.com:6379",
  "rediss://user@valkey.example.com:6379",
  "rediss://a.example.com:6379,b.example.com:6379",
  "rediss://user@a.example.com:6379,b.example.com:6379",
])("%s is accepted", async (address) => {
  expect(await hashFor(address)).toMatch(/^[0-9a-f]{64}$/);
});
