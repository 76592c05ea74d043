import { defineConfig } from "vitest/config";

/** The tests of the npm package. They pack and install it, so `npm test` leaves them out. */
export default defineConfig({
  test: {
    include: ["test/package/**/*.test.ts"],
    testTimeout: 120_000,
    hookTimeout: 300_000,
  },
});
