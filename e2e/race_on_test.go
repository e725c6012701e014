//go:build race

package e2e_test

// raceDetector builds the binaries under test as the tests themselves are built.
const raceDetector = true
