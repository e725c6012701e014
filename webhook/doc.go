// Package webhook tells other programs what happens: it delivers the events that the
// domains have put into the outbox (registry.Emit) to the endpoints that administrators
// have registered, signed as Standard Webhooks demand. [contracts H]
//
// endpoint.go is who is told, delivery.go what became of it, worker.go sends and
// retry.go says when again, post.go is the HTTP client and guard.go what it may connect
// to. docs/webhooks.md is the page for those who receive.
//
// A delivery is made at least once: a receiver knows it again by its webhook-id. What is
// about one device arrives at an endpoint in the order in which it happened.
package webhook
