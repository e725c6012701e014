// Package e2e_test runs the whole program: in process on ports of its own, or as
// the real binaries, with clients that nobody here wrote. harness_test.go starts a
// cloud and talks to it; every other file is a subject.
package e2e_test
