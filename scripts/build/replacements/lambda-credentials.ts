import { fromEnv } from "@aws-sdk/credential-provider-env";
import { fromHttp } from "@aws-sdk/credential-provider-http";
import type { defaultProvider as sdkDefault } from "@aws-sdk/credential-provider-node";

/**
 * The credentials of a function's role: from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or, for
 * functions restored from snapshots, from the endpoint of AWS_CONTAINER_CREDENTIALS_FULL_URI (AWS Lambda Developer Guide,
 * SnapStart). The SDK's default chain also tries profiles, single sign-on and other sources that a function never has.
 */
export const defaultProvider: typeof sdkDefault = (init) =>
  process.env.AWS_CONTAINER_CREDENTIALS_FULL_URI === undefined ? fromEnv(init) : fromHttp(init);
