package hooks

import (
	"context"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Video is what devices ask the domain of video; [media.Service] implements it.
type Video interface {
	// Lend gives a device credentials; room is the longest answer it takes, 0 for any.
	Lend(ctx context.Context, a registry.Actor, r media.VendRequest, room int) (media.Lent, error)
	// Coordinates tells a device where AWS IoT gives it credentials.
	Coordinates(ctx context.Context, deviceID, requestID string) ([]byte, error)
}

const (
	// videoLimit bounds the answer to a device's request for credentials.
	videoLimit = 15 * time.Second
	// lentExpiry is the Message Expiry of credentials, for MQTT 5. [contracts A.5]
	lentExpiry = 30 * time.Second
)

// videoCredentials answers kvs/credentials/request. The request is acknowledged at once
// and answered when AWS has: the connection must not wait for it. The answer goes to the
// session that asked, or to nobody: it is not kept for another.
func (g *guard) videoCredentials(s *session, pk *packets.Packet) verdict {
	if g.video == nil {
		return g.disabled(s, topic.KVSCredentialsRequest, pk)
	}
	request, err := media.ParseVendRequest(pk.Payload)
	if err != nil {
		return g.outcome(s, topic.KVSCredentialsRequest, err)
	}
	if !s.device.vending.CompareAndSwap(nil, &request) {
		if now := s.device.vending.Load(); now != nil && *now == request {
			return settled // its answer is on the way
		}
		late := *media.ErrTooOften // one at a time
		late.RetryAfter = time.Second
		g.refuseVideo(s, topic.KVSCredentialsResponse, request.RequestID, &late)
		return settled
	}
	g.work.Go(func() {
		defer g.recovered("videoCredentials", func() { s.device.vending.Store(nil) })
		g.lend(s, request)
	})
	return settled
}

// lend asks for credentials and answers, unless the session is over before.
func (g *guard) lend(s *session, request media.VendRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), videoLimit)
	defer cancel()
	g.work.Go(func() {
		select {
		case <-s.gone:
			cancel()
		case <-ctx.Done():
		}
	})
	const k = topic.KVSCredentialsResponse
	actor := registry.Actor{Kind: registry.ActorDevice, ID: s.id, IP: host(s.cl.Net.Remote), ClientType: "device"}
	lent, err := g.video.Lend(ctx, actor, request, s.room(g.root.Build(s.id, k)))
	s.device.vending.Store(nil) // before the answer, behind which the next request may come
	var payload []byte
	if err == nil {
		payload, err = lent.Wire()
	}
	if err == nil {
		err = g.courier.deliverFor(s, k, payload, lentExpiry)
		if err == nil {
			return
		}
		g.log.Info("credentials were not delivered: the device does not take them", "device_id", s.id, "error", err)
		if registry.KindOf(err) != registry.TooLarge {
			return
		}
		err = media.ErrTooLarge
	}
	g.refuseVideo(s, k, request.RequestID, err)
}

// room is the longest payload that a client takes on a topic, in bytes; 0: any.
func (s *session) room(name string) int {
	if s.maxSize == 0 {
		return 0
	}
	// Fixed header, length of the topic, packet id, and the Message Expiry with its length.
	const around = 5 + 2 + 2 + 1 + 5
	return max(1, int(s.maxSize)-around-len(name))
}

// videoConfig answers kvs/config/request.
func (g *guard) videoConfig(s *session, pk *packets.Packet) verdict {
	if g.video == nil {
		return g.disabled(s, topic.KVSConfigRequest, pk)
	}
	requestID, err := media.ParseConfigRequest(pk.Payload)
	if err != nil {
		return g.outcome(s, topic.KVSConfigRequest, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	payload, err := g.video.Coordinates(ctx, s.id, requestID)
	if err != nil {
		g.refuseVideo(s, topic.KVSConfigResponse, requestID, err)
		return settled
	}
	g.respond(s, topic.KVSConfigResponse, payload)
	return settled
}

// refuseVideo answers a request that was refused.
func (g *guard) refuseVideo(s *session, k topic.Kind, requestID string, cause error) {
	payload, internal := media.Refusal(requestID, cause)
	if internal {
		g.log.Warn("a device's request about video failed", "device_id", s.id, "topic", k.String(), "error", cause)
	}
	g.respond(s, k, payload)
}
