// Stands in for the host's functions in tests, and answers what a test put here.
export const fake = { inFlight: [], tried: [] };
export const inFlight = (endpoint) => fake.inFlight[endpoint] ?? 0;
export const tried = (endpoint) => fake.tried.includes(endpoint);
export const failureRate = () => 0;
// What the host does not have comes as `null`, as it does from the engine.
export const report = () => null;
export const metric = () => null;
