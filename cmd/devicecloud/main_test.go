package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script run this program as an operator does.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"devicecloud": main})
}

func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATA_DIR", "data")
			return os.MkdirAll(env.Getenv("WORK"), 0o700)
		},
	})
}
