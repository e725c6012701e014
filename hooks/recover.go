package hooks

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// mochi has no recover: a panic in a hook would end the process, and its write
// loops and its event loop are goroutines of its own, which no listener can guard.
// So every method of the hook recovers by itself.

// recovered is deferred by every method that mochi calls. It counts and logs a
// panic, and answers with what is safe.
func (g *guard) recovered(method string, safe func()) {
	if r := recover(); r != nil {
		g.courier.panicked(method, r)
		if safe != nil {
			safe()
		}
	}
}

func (c *Courier) panicked(method string, r any) {
	c.metrics.panicked(method)
	c.log.Error("panic in a hook", "hook", method, "panic", panicText(r), "stack", string(debug.Stack()))
}

// panicText describes a panic without repeating its value, which may hold a
// secret. What the runtime itself says is free of data.
func panicText(r any) string {
	if e, ok := r.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("value of type %T", r)
}

// background runs f on a goroutine that Stop waits for.
func (g *guard) background(name string, f func()) {
	g.work.Go(func() {
		defer g.recovered(name, nil)
		f()
	})
}
