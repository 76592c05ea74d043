import { afterAll, beforeAll, describe } from "vitest";
import { artifacts } from "#test/deploy/suites/artifacts.ts";
import { functions } from "#test/deploy/suites/functions.ts";
import { lanes } from "#test/deploy/suites/lanes.ts";
import { library } from "#test/deploy/suites/library.ts";
import { monitoring } from "#test/deploy/suites/monitoring.ts";
import { network } from "#test/deploy/suites/network.ts";
import { operate } from "#test/deploy/suites/operate.ts";
import { queues } from "#test/deploy/suites/queues.ts";
import { refusals } from "#test/deploy/suites/refusals.ts";
import { roles } from "#test/deploy/suites/roles.ts";
import { valkey } from "#test/deploy/suites/valkey.ts";
import { Packages } from "#test/deploy/template.ts";

describe("the CloudFormation templates and artifacts", () => {
  // One file for all suites: they share the packages, and osls must not run twice at the same time in one folder.
  let packages: Packages | undefined;
  beforeAll(async () => {
    packages = await Packages.make();
  }, 400_000);
  afterAll(() => packages?.[Symbol.asyncDispose]());

  const packaged = () => {
    if (packages === undefined) throw new Error("nothing was packaged");
    return packages;
  };
  describe("functions", () => functions(packaged));
  describe("queues", () => queues(packaged));
  describe("roles", () => roles(packaged));
  describe("library", () => library(packaged));
  describe("Valkey", () => valkey(packaged));
  describe("network", () => network(packaged));
  describe("monitoring", () => monitoring(packaged));
  describe("artifacts", () => artifacts(packaged));
  describe("worker lanes", () => lanes(packaged));
  describe("operate functions", () => operate(packaged));
  describe("refusals", refusals);
});
