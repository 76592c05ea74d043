/**
 * `npm run deploy:local`: builds the functions and deploys the stage `local` of serverless.yml to the LocalStack of
 * compose.yaml, or to the one that AWS_ENDPOINT_URL names.
 *
 * Exit status: 0, 1 when a step failed, 2 when the arguments are invalid or LocalStack does not run.
 */

import { Command, CommanderError } from "commander";
import { LOCALSTACK_VERSION } from "#local/localstack-package.ts";
import { buildFunctions, deployStage, describePackage, packageStage } from "#scripts/osls.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";

const STAGE = "local";
const DEFAULT_ENDPOINT = "http://127.0.0.1:4566";
const HEALTH_DEADLINE_MS = 5_000;
/** Services that the template of the stage needs. LocalStack needs the others of SERVICES in compose.yaml. */
const NEEDED = ["cloudformation", "iam", "lambda", "logs", "s3", "sqs"];

async function deploy(options: readonly string[]): Promise<void> {
  const endpoint = process.env.AWS_ENDPOINT_URL || DEFAULT_ENDPOINT;
  await requireLocalStack(endpoint);
  // For osls. Never send real credentials to an emulator; LocalStack derives its account from these.
  Object.assign(process.env, {
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
  });
  for (const name of ["AWS_SESSION_TOKEN", "AWS_PROFILE"]) delete process.env[name];
  await buildFunctions();
  const packaged = await packageStage(STAGE, options);
  console.log(describePackage(packaged));
  await deployStage(STAGE, packaged.folder, options);
}

/** Called before the build, to fail early. Rejects with a ConfigurationError. */
async function requireLocalStack(endpoint: string): Promise<void> {
  const services = await servicesOf(endpoint);
  const missing = NEEDED.filter((name) => !["available", "running"].includes(String(services[name])));
  if (missing.length > 0) {
    throw new ConfigurationError([
      `LocalStack at ${endpoint} does not provide ${missing.join(", ")}: start the one of local/compose.yaml`,
    ]);
  }
}

async function servicesOf(endpoint: string): Promise<Readonly<Record<string, unknown>>> {
  const advice =
    `start LocalStack ${LOCALSTACK_VERSION} with "docker compose up --wait" in local/, or set ` +
    'AWS_ENDPOINT_URL. Without a container engine, use "npm run local:aws"';
  let health: unknown;
  try {
    const response = await fetch(new URL("/_localstack/health", endpoint), {
      signal: AbortSignal.timeout(HEALTH_DEADLINE_MS),
    });
    health = await response.json();
  } catch (error) {
    const reason = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    throw new ConfigurationError([
      `LocalStack does not answer at ${endpoint} (${messageOf(reason)}): ${advice}`,
    ]);
  }
  const services: unknown = isRecord(health) ? health.services : undefined;
  if (isRecord(services)) return services;
  throw new ConfigurationError([`the server at ${endpoint} is not LocalStack: ${advice}`]);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

const command = new Command("npm run deploy:local --")
  .description(
    "Builds the functions and deploys the stage local of serverless.yml to LocalStack, at AWS_ENDPOINT_URL or " +
      "http://127.0.0.1:4566 (local/compose.yaml). Exit status: 0, 1 when a step failed, 2 when the arguments are " +
      "invalid or LocalStack does not run.",
  )
  .option("--param <name=value...>", "a parameter of serverless.yml; may be repeated")
  .option("--verbose", "show CloudFormation events")
  .allowExcessArguments(false)
  .exitOverride();

try {
  const { param = [], verbose } = command.parse().opts<{ param?: string[]; verbose?: true }>();
  await deploy([...param.map((one) => `--param=${one}`), ...(verbose ? ["--verbose"] : [])]);
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else {
    process.stderr.write(`deploy:local: ${messageOf(error)}\n`);
    process.exitCode = error instanceof ConfigurationError ? 2 : 1;
  }
}
