// Package httpapi is the HTTP face: it turns a request into one call of a domain
// and the result into JSON. It decides nothing about devices or people.
//
// routes.go is one page with every route and who may ask for it. An endpoint
// decodes, makes its domain call, and encodes a response struct of the face's own,
// so that a secret of a domain struct cannot slip into an answer. errors.go is the
// one place that turns a kind of error into a status. What surrounds every
// request (request id, recovery, log, metrics, headers, limits) is in serve.go.
//
// openapi.yaml at the root of the repository is the contract; the tests hold
// every request and answer against it.
package httpapi
