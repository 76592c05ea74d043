/** Every operation that changes state. */
export const WRITE_OPERATIONS = [] as const;
