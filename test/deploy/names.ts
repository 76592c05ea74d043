/** Names in the deployments of serverless.yml. */

import { VARIANTS } from "#scripts/variants.ts";
import type { Packages } from "#test/deploy/template.ts";

export const FUNCTIONS = ["dispatch", "reconcile", "redrive", "operate-read", "operate-write", "provision"];
/** The functions in the VPC, which connect to Valkey. */
export const VALKEY_FUNCTIONS = FUNCTIONS.filter((name) => name !== "redrive");
/** The functions of the command `sluice --stage`. */
export const OPERATE = ["operate-read", "operate-write"];
/** The variants with worker lanes. */
export const WITH_LANES = ["lanes", "lanes-existing-iam"];
/** All variants of a deployment. */
export const ALL = VARIANTS.map(({ name }) => name);
/** The variants without worker lanes. */
export const NAMES = ALL.filter((name) => !WITH_LANES.includes(name));
/** The variants with a replication group in the stack. */
export const OWN = ["dev", "prod", "own-in-existing-network", "restricted"];
/** The start of the key ARNs in the variant restricted. */
export const KEY = "arn:aws:kms:us-east-1:123456789012:key/";

/** The name of a function in serverless.yml and of its artifact, which has no hyphens: `operateRead`. */
export function keyOf(name: string): string {
  return name.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}

/** The logical id of a function. */
export function idOf(name: string): string {
  const key = keyOf(name);
  return `${key.charAt(0).toUpperCase()}${key.slice(1)}LambdaFunction`;
}

/** Returns the packages, which are created before the first test. */
export type Packaged = () => Packages;
