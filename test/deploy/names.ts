/** Names in the deployments of serverless.yml. */

import { VARIANTS } from "#scripts/variants.ts";
import type { Packages } from "#test/deploy/template.ts";

export const FUNCTIONS = ["dispatch", "reconcile", "redrive", "provision"];
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

/** The logical id of a function. */
export function idOf(name: string): string {
  return `${name.charAt(0).toUpperCase()}${name.slice(1)}LambdaFunction`;
}

/** Returns the packages, which are created before the first test. */
export type Packaged = () => Packages;
