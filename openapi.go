package devicecloud

import _ "embed"

// OpenAPI is openapi.yaml: the HTTP contract, served at /openapi.yaml. The tests
// of httpapi hold every request and answer of theirs against it.
//
//go:embed openapi.yaml
var OpenAPI []byte

// AsyncAPI is asyncapi.yaml: the MQTT contract, served at /asyncapi.yaml.
//
//go:embed asyncapi.yaml
var AsyncAPI []byte
