/** The types of Lambda that appear in the package's interface: applications need no type package for them. */

/** The part of Lambda's context that workers read. */
export interface LambdaContext {
  readonly awsRequestId: string;
  readonly functionName: string;
  readonly functionVersion: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  /** Milliseconds. */
  getRemainingTimeInMillis(): number;
}

/** What Lambda expects from a function with `ReportBatchItemFailures`. */
export interface LambdaBatchResponse {
  readonly batchItemFailures: { readonly itemIdentifier: string }[];
}

/** One invocation, as middleware sees it. */
export interface LambdaRequest {
  readonly event: unknown;
  readonly context: LambdaContext;
  response: unknown;
  error: unknown;
}

/** Middleware around each invocation. Those of middy, and of the packages for middy, have this type. */
export interface LambdaMiddleware {
  before?(request: LambdaRequest): unknown;
  after?(request: LambdaRequest): unknown;
  onError?(request: LambdaRequest): unknown;
}
