// Package devicecloud is a device cloud for ESP32 products in one binary: an
// embedded MQTT broker whose hooks write straight into the device registry, and
// a small HTTP API beside it. It exists for one sentence: what a device says over
// MQTT is in the registry, correctly and durably, when the device gets its
// PUBACK; and what a user may see or do is decided in one place.
//
// The house, from the ground up. Imports only point to a lower floor:
//
//	schema.sql, topic                     the truth of both databases; every MQTT topic
//	registry, broker                      the domain of devices; the engine room around mochi
//	account                               the domain of people
//	sqlstore, hooks                       the stores; the MQTT face
//	httpapi                               the HTTP face
//	cmd/devicecloud                       wiring, configuration, commands
//	firmware-sim                          apart: a fleet of devices that shares no code with the cloud
//
// A noun has one file, of the same name on every floor: to follow the way of a
// provisioning request, read hooks/provision.go, registry/provision.go and
// sqlstore/provision.go. docs/architecture.md tells the two journeys and the
// promises, docs/mqtt.md the topics.
package devicecloud

import _ "embed"

// Schema is schema.sql: the truth that replaying the migrations must give.
//
//go:embed schema.sql
var Schema string

// Version is the version of the program; the build overwrites it.
var Version = "0.1.0-dev"
