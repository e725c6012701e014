package mqttwire_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// samples holds one packet of each kind and version, with every field that the kind has.
func samples() map[string]struct {
	v mqttwire.Version
	p mqttwire.Packet
} {
	type sample = struct {
		v mqttwire.Version
		p mqttwire.Packet
	}
	will := mqttwire.Will{Topic: "opticworks/a/state", Payload: []byte(`{"online":false}`), QoS: 1, Retain: true}
	will5 := will
	will5.Properties = mqttwire.Properties{mqttwire.Number(mqttwire.PropWillDelay, 3)}
	every := mqttwire.Properties{
		mqttwire.Number(mqttwire.PropPayloadFormat, 1),
		mqttwire.Number(mqttwire.PropMessageExpiry, 70000),
		mqttwire.Text(mqttwire.PropContentType, "application/json"),
		mqttwire.Text(mqttwire.PropResponseTopic, "r/t"),
		mqttwire.Text(mqttwire.PropCorrelationData, "\x00\xFF"),
		mqttwire.Number(mqttwire.PropSubscriptionID, 268435455),
		mqttwire.Number(mqttwire.PropSubscriptionID, 1),
		mqttwire.Number(mqttwire.PropTopicAlias, 9),
		mqttwire.User("a", "1"),
		mqttwire.User("a", "2"),
	}
	filters := []mqttwire.Filter{{Topic: "a/+", QoS: 1}, {Topic: "b", QoS: 2}}
	options := []mqttwire.Filter{{Topic: "a", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}
	codes := []mqttwire.ReasonCode{mqttwire.Success, mqttwire.NotAuthorized}
	return map[string]sample{
		"CONNECT 3.1.1 in full": {4, mqttwire.Packet{Type: mqttwire.CONNECT, Connect: &mqttwire.Connect{
			Version: 4, ProtocolName: "MQTT", KeepAlive: 60, ClientID: "id", Username: "u", Password: []byte("p"), Will: &will,
		}}},
		"CONNECT 5 in full": {5, mqttwire.Packet{
			Type: mqttwire.CONNECT, Connect: &mqttwire.Connect{
				Version: 5, ProtocolName: "MQTT", Resume: true, ClientID: "id", Password: []byte{}, Will: &will5,
			},
			Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropSessionExpiry, 1), mqttwire.Number(mqttwire.PropReceiveMaximum, 8)},
		}},
		"CONNACK 3.1.1": {4, mqttwire.Packet{Type: mqttwire.CONNACK, SessionPresent: true}},
		"CONNACK 5": {5, mqttwire.Packet{
			Type: mqttwire.CONNACK, ReasonCode: mqttwire.ServerBusy,
			Properties: mqttwire.Properties{mqttwire.Text(mqttwire.PropReasonString, "later"), mqttwire.Number(mqttwire.PropServerKeepAlive, 80)},
		}},
		"PUBLISH QoS 0 3.1.1": {4, mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: "a/b", Payload: []byte("x"), Retain: true}},
		"PUBLISH QoS 2 5":     {5, mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: "a/b", Payload: []byte("x"), QoS: 2, Dup: true, PacketID: 65535, Properties: every}},
		"PUBACK 3.1.1":        {4, mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: 1}},
		"PUBACK 5 refused":    {5, mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: 1, ReasonCode: mqttwire.NotAuthorized}},
		"PUBREC 5 short":      {5, mqttwire.Packet{Type: mqttwire.PUBREC, PacketID: 2}},
		"PUBREL 3.1.1":        {4, mqttwire.Packet{Type: mqttwire.PUBREL, PacketID: 3}},
		"PUBCOMP 5":           {5, mqttwire.Packet{Type: mqttwire.PUBCOMP, PacketID: 4, ReasonCode: 0x92, Properties: mqttwire.Properties{mqttwire.Text(mqttwire.PropReasonString, "?")}}},
		"SUBSCRIBE 3.1.1":     {4, mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 5, Filters: filters}},
		"SUBSCRIBE 5":         {5, mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 5, Filters: options}},
		"SUBACK 3.1.1":        {4, mqttwire.Packet{Type: mqttwire.SUBACK, PacketID: 5, ReasonCodes: []mqttwire.ReasonCode{1, 0x80}}},
		"SUBACK 5":            {5, mqttwire.Packet{Type: mqttwire.SUBACK, PacketID: 5, ReasonCodes: codes}},
		"UNSUBSCRIBE 5":       {5, mqttwire.Packet{Type: mqttwire.UNSUBSCRIBE, PacketID: 6, Filters: []mqttwire.Filter{{Topic: "a"}}}},
		"UNSUBACK 3.1.1":      {4, mqttwire.Packet{Type: mqttwire.UNSUBACK, PacketID: 6}},
		"UNSUBACK 5":          {5, mqttwire.Packet{Type: mqttwire.UNSUBACK, PacketID: 6, ReasonCodes: codes}},
		"PINGREQ":             {4, mqttwire.Packet{Type: mqttwire.PINGREQ}},
		"PINGRESP":            {5, mqttwire.Packet{Type: mqttwire.PINGRESP}},
		"DISCONNECT 3.1.1":    {4, mqttwire.Packet{Type: mqttwire.DISCONNECT}},
		"DISCONNECT 5":        {5, mqttwire.Packet{Type: mqttwire.DISCONNECT, ReasonCode: mqttwire.SessionTakenOver}},
		"AUTH 5":              {5, mqttwire.Packet{Type: mqttwire.AUTH, ReasonCode: 0x18, Properties: mqttwire.Properties{mqttwire.Text(mqttwire.PropAuthMethod, "x")}}},
	}
}

func encode(t *testing.T, p mqttwire.Packet, v mqttwire.Version) []byte {
	t.Helper()
	b, err := p.Append(nil, v)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return b
}

func TestEveryPacketSurvivesTheWire(t *testing.T) {
	for name, s := range samples() {
		t.Run(name, func(t *testing.T) {
			b := encode(t, s.p, s.v)
			got, err := mqttwire.Decode(b, s.v)
			if err != nil {
				t.Fatalf("decode %x: %v", b, err)
			}
			if diff := cmp.Diff(&s.p, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("decoded packet differs (-sent +got):\n%s", diff)
			}
			// The smallest reader, one byte at a time: nothing may depend on how the bytes are cut.
			r := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(b)), 16)
			read, err := mqttwire.ReadPacket(r, s.v)
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			if diff := cmp.Diff(got, read); diff != "" {
				t.Errorf("read packet differs from decoded one:\n%s", diff)
			}
			if _, err := mqttwire.ReadPacket(r, s.v); err != io.EOF {
				t.Errorf("after the packet: %v, want EOF", err)
			}
		})
	}
}

func TestKnownBytes(t *testing.T) {
	// Written by hand from the specification, so that encoder and decoder cannot agree on an error.
	cases := []struct {
		name, hex string
		v         mqttwire.Version
		p         mqttwire.Packet
	}{
		{
			"CONNECT 3.1.1", "101900044d51545404c2003c0001610001750007736563726574" + "21", 4,
			mqttwire.Packet{Type: mqttwire.CONNECT, Connect: &mqttwire.Connect{KeepAlive: 60, ClientID: "a", Username: "u", Password: []byte("secret!")}},
		},
		{
			"PUBLISH QoS 1", "320800026c6b01027878", 4,
			mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: "lk", QoS: 1, PacketID: 0x0102, Payload: []byte("xx")},
		},
		{
			"SUBSCRIBE 5", "82080001000002612f01", 5,
			mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: 1, Filters: []mqttwire.Filter{{Topic: "a/", QoS: 1}}},
		},
		{"PUBACK 5 with reason", "4003000787", 5, mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: 7, ReasonCode: 0x87}},
		{"PINGREQ", "c000", 4, mqttwire.Packet{Type: mqttwire.PINGREQ}},
		{"DISCONNECT 5", "e000", 5, mqttwire.Packet{Type: mqttwire.DISCONNECT}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := hex.EncodeToString(encode(t, c.p, c.v)); got != c.hex {
				t.Errorf("got  %s\nwant %s", got, c.hex)
			}
		})
	}
}

func TestRemainingLengthBoundaries(t *testing.T) {
	for _, n := range []int{0, 127 - 4, 128 - 4, 16383 - 4, 16384 - 4, 70_000} {
		p := mqttwire.Packet{Type: mqttwire.PUBLISH, Topic: "ab", Payload: bytes.Repeat([]byte{7}, n)}
		b := encode(t, p, mqttwire.V311)
		for cut := range min(5, len(b)) {
			if size, err := mqttwire.FrameSize(b[:cut]); err != nil || size != 0 && size != len(b) {
				t.Errorf("FrameSize of the first %d of %d bytes = %d, %v", cut, len(b), size, err)
			}
		}
		if got, err := mqttwire.Decode(b, mqttwire.V311); err != nil || len(got.Payload) != n {
			t.Errorf("payload of %d: %v", n, err)
		}
	}
}

func TestMalformedPacketsAreRefused(t *testing.T) {
	cases := []struct {
		name, hex string
		v         mqttwire.Version
	}{
		{"type 0", "0000", 4},
		{"five length bytes", "30ffffffffff01", 4},
		{"PUBLISH with QoS 3", "3606000161000158", 4},
		{"PUBLISH with packet id 0", "3206000161000058", 4},
		{"PUBLISH to a wildcard", "30040001" + "2358", 4},
		{"PUBLISH without topic", "30020000", 4},
		{"PUBLISH with bad UTF-8", "30030001ff", 4},
		{"PUBLISH with NUL", "3003000100", 4},
		{"PUBREL with wrong flags", "60020001", 4},
		{"SUBACK without codes", "90020001", 4},
		{"CONNACK with flags", "20020200", 4},
		{"PINGRESP with body", "d00100", 4},
		{"AUTH in 3.1.1", "f000", 4},
		{"unknown property", "2005000002" + "7f00", 5},
		{"property twice", "2009000006" + "220001" + "220002", 5},
		{"properties longer than the packet", "200300007f", 5},
		{"SUBSCRIBE without options", "82050001" + "000161", 4},
		{"SUBSCRIBE without filter", "82020001", 4},
		{"CONNECT with reserved flag", "100c00044d51545404030000" + "0000", 4},
		{"CONNECT of level 3", "100c00044d51545403020000" + "0000", 4},
		{"CONNECT password alone", "100e00044d515454044200000000" + "0000", 4},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b, err := hex.DecodeString(c.hex)
			if err != nil {
				t.Fatal(err)
			}
			p, err := mqttwire.ReadPacket(bufio.NewReader(bytes.NewReader(b)), c.v)
			if !errors.Is(err, mqttwire.ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", p, err)
			}
		})
	}
}

func TestEndInTheMiddleOfAPacketIsNotAnOrderlyEnd(t *testing.T) {
	for name, s := range samples() {
		b := encode(t, s.p, s.v)
		for cut := 1; cut < len(b); cut++ {
			_, err := mqttwire.ReadPacket(bufio.NewReader(bytes.NewReader(b[:cut])), s.v)
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("%s cut at %d: %v", name, cut, err)
			}
			if _, err := mqttwire.Decode(b[:cut], s.v); !errors.Is(err, mqttwire.ErrMalformed) {
				t.Fatalf("%s cut at %d decoded: %v", name, cut, err)
			}
		}
	}
}

func TestWhatTheFormatCannotSayIsRefused(t *testing.T) {
	cases := map[string]mqttwire.Packet{
		"long topic":         {Type: mqttwire.PUBLISH, Topic: strings.Repeat("x", 65536)},
		"long filter":        {Type: mqttwire.SUBSCRIBE, PacketID: 1, Filters: []mqttwire.Filter{{Topic: strings.Repeat("x", 65536)}}},
		"unknown property":   {Type: mqttwire.PUBLISH, Topic: "a", Properties: mqttwire.Properties{{ID: 0x7F}}},
		"CONNECT of nothing": {Type: mqttwire.CONNECT},
	}
	for name, p := range cases {
		if _, err := p.Append(nil, mqttwire.V5); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	if _, err := mqttwire.FrameSize([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}); !errors.Is(err, mqttwire.ErrTooLarge) {
		t.Errorf("a packet of 256 MiB: %v, want ErrTooLarge", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		b, err := s.p.Append(nil, s.v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(s.v))
	}
	f.Fuzz(func(t *testing.T, b []byte, version byte) {
		v := mqttwire.V311
		if version&1 == 1 {
			v = mqttwire.V5
		}
		p, err := mqttwire.Decode(b, v)
		if err != nil {
			if !errors.Is(err, mqttwire.ErrMalformed) && !errors.Is(err, mqttwire.ErrTooLarge) {
				t.Fatalf("error of an unknown kind: %v", err)
			}
			return
		}
		again, err := p.Append(nil, v)
		if err != nil {
			t.Fatalf("%+v was decoded but cannot be encoded: %v", p, err)
		}
		q, err := mqttwire.Decode(again, v)
		if err != nil {
			t.Fatalf("%x was encoded but cannot be decoded: %v", again, err)
		}
		if diff := cmp.Diff(p, q, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("not the same after a second pass:\n%s", diff)
		}
	})
}
