/** The dispatch function: SQS invokes it with completed executions; it updates their children in Valkey. */

import { createDispatcher } from "#functions/dispatch/create-dispatcher.ts";

export const handler = createDispatcher();
