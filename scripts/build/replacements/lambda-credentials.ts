import { fromEnv } from "@aws-sdk/credential-provider-env";
import { fromHttp } from "@aws-sdk/credential-provider-http";
import type { defaultProvider as sdkDefault } from "@aws-sdk/credential-provider-node";

/**
 * The credentials of a function's role, as Lambda gives them: in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
 * AWS_SESSION_TOKEN, or, where it restores functions from snapshots, from the endpoint that
 * AWS_CONTAINER_CREDENTIALS_FULL_URI names (Lambda developer guide, SnapStart). The SDK's own chain also looks into
 * profiles, single sign-on, other processes and more, none of which a function has.
 */
export const defaultProvider: typeof sdkDefault = (init) =>
  process.env.AWS_CONTAINER_CREDENTIALS_FULL_URI === undefined ? fromEnv(init) : fromHttp(init);
