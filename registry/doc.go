// Package registry is the domain of devices: identity, credentials, provisioning,
// ownership, presence and state, and the one gate that says who may do what.
//
// It knows no transport, no driver and no vendor: it stands on the standard
// library and package topic, and is handed a [Store], a [Courier], a clock and an
// id source. Rules live here, never in a store or a handler.
//
// Everything a device says goes through the group commit (ingest.go): callers
// wait for the commit of their own batch, so that a nil error is a commit receipt.
package registry
