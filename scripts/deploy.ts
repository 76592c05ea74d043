/**
 * `npm run deploy -- --stage prod`: builds, packages and deploys. Exit status: 0, 1 when a step failed, 2 when the
 * arguments are invalid or AWS credentials are missing.
 */

import { SQSClient } from "@aws-sdk/client-sqs";
import { Command, CommanderError } from "commander";
import { buildFunctions, deployStage, describePackage, packageStage } from "#scripts/osls.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";

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

/** Called before the build, to fail early: osls checks the credentials only when it deploys. */
async function requireCredentials(profile: string | undefined): Promise<void> {
  if (profile !== undefined) process.env.AWS_PROFILE = profile;
  // Every client has the SDK's default credential chain, which does not depend on the region.
  const client = new SQSClient({ region: "us-east-1" });
  try {
    await client.config.credentials();
  } catch (error) {
    throw new ConfigurationError([
      "AWS credentials not found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (--aws-profile), " +
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
      "Builds, packages and deploys one stage of serverless.yml. docs/deploy.md lists its parameters. Exit status: 0, " +
        "1 when a step failed, 2 when the arguments are invalid or AWS credentials are missing.",
    )
    .requiredOption("--stage <name>", "dev, prod, local, or a stage of your own")
    .option("--param <name=value...>", "a parameter of serverless.yml; may be repeated")
    .option("--region <region>", "the region of the stack (default: AWS_REGION, or us-east-1)")
    .option("--aws-profile <name>", "a profile of the AWS configuration")
    .option("--verbose", "show CloudFormation events")
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
