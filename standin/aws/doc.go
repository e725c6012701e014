// Package aws stands in for Amazon Web Services on this machine: STS, Kinesis Video
// Streams with its archive and its signalling, and Cognito identities. It is for
// demonstrations and tests; the program proper never imports it.
//
// It verifies what AWS verifies. Every request is signed anew from what arrived and the
// signatures compared (signature.go); who calls may do what the role allows and the
// session's policy too, on the one resource that is named there (policy.go). So that
// credentials of one device really fail on another's stream.
package aws
