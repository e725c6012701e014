package hooks

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// provision registers a device after its Wi-Fi set-up. A refusal is a response
// like any other; the request is acknowledged when what it did is committed.
func (g *guard) provision(s *session, pk *packets.Packet) verdict {
	response, err := g.registry.Provision(context.Background(), s.device.session, pk.Payload)
	if err != nil {
		return g.outcome(s, topic.Provision, err)
	}
	g.respond(s, topic.ProvisionResponse, response)
	return settled
}

// respond answers a device on the topic of the answer. When the device has not
// subscribed to it yet, or has not acknowledged what it has got already, the answer
// waits until then.
func (g *guard) respond(s *session, k topic.Kind, payload []byte) {
	if err := g.courier.deliver(s, k, payload); errors.Is(err, registry.ErrOffline) || errors.Is(err, errBusy) {
		s.device.outbox.hold(k, payload)
	}
}

// maxRequestID bounds the request id that an answer repeats, in bytes.
const maxRequestID = 64

// refusedRequest is the answer to a request whose feature is not part of this
// version.
type refusedRequest struct {
	RequestID string `json:"request_id,omitempty"`
	Status    string `json:"status"`
	Error     string `json:"error"`
}

// disabled refuses requests of features that are not there. The request is
// acknowledged and the refusal is its answer, so that a device does not wait.
func (g *guard) disabled(s *session, k topic.Kind, pk *packets.Packet) verdict {
	answer := refusedRequest{Status: "error", Error: "feature_disabled"}
	to := topic.KVSCredentialsResponse
	if k == topic.KVSConfigRequest {
		to = topic.KVSConfigResponse
	}
	var request struct {
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(pk.Payload, &request); err == nil && len(request.RequestID) <= maxRequestID {
		answer.RequestID = request.RequestID
	}
	payload, err := json.Marshal(answer)
	if err != nil {
		return broken // a struct of strings always marshals
	}
	g.respond(s, to, payload)
	return settled
}
