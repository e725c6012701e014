// Package eiotclub speaks with the SIM carrier: it signs and sends requests
// ([Client]), and verifies and reads the notifications that the carrier posts
// ([Reader]). It knows the carrier's wire and nothing of purchases: those are the
// domain's (package dataplan), whose small interfaces it implements.
//
// The carrier's signature is a digest over the sorted parameters with the shared
// secret behind them (signer.go). That is no HMAC; the carrier fixes it. What it lacks
// is made up for elsewhere: a list of addresses, a window of time, ids that count once,
// and strict forms of the fields that decide something, so that no text can be moved
// from one field into another under the same signature (notification.go).
// [contracts E.2]
package eiotclub
