// Package app is the program as a value: [New] wires the house from a [Config],
// [App.Run] serves until its context ends, [App.Close] gives everything back. It is
// the only place where the floors meet. The commands around it are in package
// main; whole-program tests start it on ":0".
package app
