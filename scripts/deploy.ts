/**
 * `npm run deploy -- --stage prod`: builds, packages and deploys. Exit status: 0, 1 when a step failed, 2 when the
 * arguments or the credentials are wrong.
 */

import { SQSClient } from "@aws-sdk/client-sqs";
import { Command, CommanderError } from "commander";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { buildFunctions, deployStage, describePackage, packageStage } from "./osls.ts";

interface DeployOptions {
  readonly stage: string;
  readonly param?: readonly string[];
  readonly region?: string;
  readonly awsProfile?: string;
  readonly verbose?: true;
}

function optionsOf(options: DeployOptions): string[] {
  return [
    ...(options.param ?? []).map((one) => `--param=${one}`),
    ...(options.region === undefined ? [] : ["--region", options.region]),
    ...(options.awsProfile === undefined ? [] : ["--aws-profile", options.awsProfile]),
    ...(options.verbose ? ["--verbose"] : []),
  ];
}

/** Before anything is built: without them, osls would say so at the end of a long way. */
async function requireCredentials(profile: string | undefined): Promise<void> {
  if (profile !== undefined) process.env.AWS_PROFILE = profile;
  // Any client has the chain of the SDK; the region does not matter for it.
  const client = new SQSClient({ region: "us-east-1" });
  try {
    await client.config.credentials();
  } catch (error) {
    throw new ConfigurationError([
      "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (--aws-profile), " +
        `or sign in with "aws sso login": ${messageOf(error)}`,
    ]);
  } finally {
    client.destroy();
  }
}

async function deploy(options: DeployOptions): Promise<void> {
  await requireCredentials(options.awsProfile);
  await buildFunctions();
  const packaged = await packageStage(options.stage, optionsOf(options));
  console.log(describePackage(packaged));
  await deployStage(options.stage, packaged.folder, optionsOf(options));
}

async function main(): Promise<number> {
  const command = new Command("npm run deploy --")
    .description(
      "Builds, packages and deploys one stage of serverless.yml. docs/deploy.md has its parameters.",
    )
    .requiredOption("--stage <name>", "dev, prod, local, or one of your own")
    .option("--param <name=value...>", "a parameter of serverless.yml; may be repeated")
    .option("--region <region>", "where the stack is to be (default: AWS_REGION, or us-east-1)")
    .option("--aws-profile <name>", "a profile of the AWS configuration")
    .option("--verbose", "show what CloudFormation does")
    .allowExcessArguments(false)
    .exitOverride();
  try {
    command.parse();
    await deploy(command.opts<DeployOptions>());
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    process.stderr.write(`deploy: ${messageOf(error)}\n`);
    return error instanceof ConfigurationError ? 2 : 1;
  }
}

process.exitCode = await main();
