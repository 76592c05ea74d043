/** Replaces the translations of zod. */

export {};
