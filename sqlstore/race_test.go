//go:build race

package sqlstore_test

// raceDetector makes SQLite, which is Go code here, some fifteen times slower.
const raceDetector = true
