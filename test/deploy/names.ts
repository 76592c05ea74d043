/** What a deployment has, by the names that serverless.yml gives it. */

import { VARIANTS } from "#scripts/variants.ts";
import type { Packages } from "#test/deploy/template.ts";

export const FUNCTIONS = ["dispatch", "reconcile", "redrive", "provision"];
/** All variants of a deployment. */
export const NAMES = VARIANTS.map(({ name }) => name);
/** Those with a replication group of their own. */
export const OWN = ["dev", "prod", "own-in-existing-network"];

/** A function's logical id. */
export function idOf(name: string): string {
  return `${name.charAt(0).toUpperCase()}${name.slice(1)}LambdaFunction`;
}

/** The packages of a run, from its beginning on. */
export type Packaged = () => Packages;
