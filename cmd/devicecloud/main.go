// Command devicecloud is a device cloud for ESP32 products: `devicecloud serve` runs
// it, `devicecloud demo` shows it, the other commands operate on its database.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}
