// Stands in for the host's functions in tests, and answers what a test put here.
export const fake = { inFlight: [], tried: [] };
export const inFlight = (endpoint) => fake.inFlight[endpoint] ?? 0;
export const tried = (endpoint) => fake.tried.includes(endpoint);
