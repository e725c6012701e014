package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/broker"
)

const canary = "canary-3b9d1f"

type loud struct{ Password string }

func (l loud) LogValue() slog.Value { return slog.StringValue(l.Password) }
func (l loud) String() string       { return l.Password }

func TestRedactor(t *testing.T) {
	log := &journal{}
	l := slog.New(broker.NewRedactor(log.logger().Handler()))
	pk := packets.Packet{Payload: []byte(canary)}
	pk.Connect.Password = []byte(canary)
	for _, args := range [][]any{
		{"pk", pk},
		{"packet", &pk},
		{"error", errors.New(canary)},
		{"error", canary},
		{"error", fmt.Errorf("x: %w", packets.Code{Code: 0x83, Reason: canary})},
		{"password", canary},
		{"client", loud{canary}},
		{"client", []byte(canary)},
		{"client", &pk},
		{"listener", map[string]string{"a": canary}},
		{slog.Group("client", "id", canary)},
		{slog.Group("", "password", canary)},
		{"id", slog.GroupValue(slog.String("id", canary))},
	} {
		l.Warn("warning", args...)
		l.With(args...).WithGroup("g").With(args...).Error("trouble", args...)
	}
	if text := log.String(); strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) || strings.Count(text, "trouble") < 10 {
		t.Error(text)
	}
	log2 := &journal{}
	l = slog.New(broker.NewRedactor(log2.logger().Handler()))
	l.With("hook", "guard").Info("message", "client", "one", "keepalive", uint16(7), "listener", strings.Repeat("x", 1000),
		"error", &broker.GuardError{Code: 0x81, Why: "why"})
	if text := log2.String(); !strings.Contains(text, `hook=guard client=one keepalive=7`) || !strings.Contains(text, "wire guard 0x81: why") || len(text) > 600 {
		t.Error(text)
	}
}

func TestRedactorBoundsWhatClientsMakeItSay(t *testing.T) {
	log := &journal{}
	l := slog.New(broker.NewRedactor(log.logger().Handler()))
	begun := time.Now()
	for range 10_000 {
		l.Warn("again")
	}
	if n, most := strings.Count(log.String(), "again"), 60+int(10*time.Since(begun).Seconds()); n > most {
		t.Errorf("%d lines", n)
	}
}

// Secrets and payloads of every packet that mochi can complain about stay out of the log.
func TestNoSecretInTheLog(t *testing.T) {
	log := &journal{}
	h := start(t, func(s *setup) {
		s.Logger = log.logger()
		s.guard.onConnect = func(_ *broker.Conn, pk packets.Packet) error {
			if pk.Connect.ClientIdentifier == "refused" {
				return fmt.Errorf("refused %s", pk.Connect.Password)
			}
			return nil
		}
	})
	for _, ver := range []byte{4, 5} {
		var none []byte
		if ver == 5 {
			none = raw(0)
		}
		hello := func(id string) []byte {
			return packet(0x10, str("MQTT"), raw(ver, 0xc6, 0, 1), none, str(id), none, str("will"), str(canary), str("user-"+canary), str("password-"+canary))
		}
		c := h.client(t, ver)
		c.say(hello("refused"))
		_ = c.rest()
		for i, in := range [][]byte{
			hello("again"),
			packet(0x32, str("a/#"), u16(1), none, []byte(canary)),
			packet(0x32, str("a"), u16(0), none, []byte(canary)),
			packet(0x30, str(""), none, []byte(canary)),
			packet(0x30, str(canary+"\xff"), none, []byte(canary)),
			packet(0x82, u16(1), none, str(canary)),
			packet(0x30, str("a"), none, []byte(canary), make([]byte, 200_000)),
		} {
			c := h.client(t, ver)
			c.say(hello(fmt.Sprint("device", i)))
			c.want(2)
			c.say(in)
			_ = c.rest()
		}
	}
	h.stop(t)
	text := log.String()
	if strings.Contains(text, canary) || !strings.Contains(text, "error processing packet") || !strings.Contains(text, "keepalive=1") {
		t.Error(text)
	}
}
