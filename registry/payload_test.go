package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/topic"
)

// golden reads what a device really sends, from testdata/wire.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "wire", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const goodState = `{"online":true,"firmware_version":"1.2.0","uptime_sec":86400,"wifi_rssi":-55,"config_version":3,"radar_connected":true,"zone_count":4}`

// nested is a value of n levels, objects and arrays in turn.
func nested(n int) string {
	s := ""
	for i := range n {
		if i%2 == 0 {
			s = "[" + s + "]"
		} else {
			s = `{"x":` + s + "}"
		}
	}
	return s
}

// members are n members of an object that is going on.
func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"m%d":%d,`, i, i)
	}
	return b.String()
}

func TestDecodeState(t *testing.T) {
	s, err := DecodeState([]byte(goodState))
	if err != nil || !s.Online || s.FirmwareVersion != "1.2.0" || *s.UptimeSec != 86400 || *s.WifiRSSI != -55 || *s.ConfigVersion != 3 || !*s.RadarConnected || *s.ZoneCount != 4 {
		t.Fatalf("DecodeState = %+v, %v", s, err)
	}
	if _, err := DecodeState(golden(t, "state.json")); err != nil {
		t.Errorf("testdata/wire/state.json: %v", err)
	}
	edit := func(old, with string) string { return strings.Replace(goodState, old, with, 1) }
	good := map[string]string{
		"the lowest values":        edit("86400", "0"),
		"the highest uptime":       edit("86400", "4294967295"),
		"the lowest RSSI":          edit("-55", "-127"),
		"an RSSI of zero":          edit("-55", "0"),
		"unknown members":          edit("{", `{"x":{"y":[1,"}",{"z":"\"]"}]},"timestamp":null,`),
		"white space":              " \n" + edit(":", " :\t") + "\r\n",
		"null for an optional one": edit(`"zone_count":4`, `"zone_count":null`),
		"quotes in a version":      edit("1.2.0", `1'; DROP TABLE devices;--\"`),
		"an escaped key":           edit(`"online"`, `"\u006fnline"`),
		"a numeric protocol":       edit("{", `{"protocol_version":2,`),
		"a protocol as text":       edit("{", `{"protocol_version":"2.0",`),
		"64 levels":                edit("{", `{"x":`+nested(64)+","),
		"64 members":               edit("{", "{"+members(64-7)),
	}
	for name, payload := range good {
		if _, err := DecodeState([]byte(payload)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]struct{ payload, names string }{
		"empty":                   {"", "JSON"},
		"not JSON":                {"online", "JSON"},
		"an array":                {"[]", "object"},
		"two documents":           {goodState + goodState, "JSON"},
		"bad UTF-8":               {edit("1.2.0", "\xff"), "JSON"},
		"online as text":          {edit("true", `"yes"`), "online"},
		"online missing":          {edit(`"online":true,`, ""), "online"},
		"online in another case":  {edit("online", "Online"), "online"},
		"firmware missing":        {edit(`"firmware_version":"1.2.0",`, ""), "firmware_version"},
		"firmware empty":          {edit("1.2.0", ""), "firmware_version"},
		"firmware of 33":          {edit("1.2.0", strings.Repeat("1", 33)), "firmware_version"},
		"firmware with a newline": {edit("1.2.0", `1\n2`), "firmware_version"},
		"firmware null":           {edit(`"1.2.0"`, "null"), "firmware_version"},
		"uptime negative":         {edit("86400", "-1"), "uptime_sec"},
		"uptime of 2^32":          {edit("86400", "4294967296"), "uptime_sec"},
		"uptime with a fraction":  {edit("86400", "1.5"), "uptime_sec"},
		"uptime of 1e400":         {edit("86400", "1e400"), "uptime_sec"},
		"uptime as text":          {edit("86400", `"1"`), "uptime_sec"},
		"RSSI above zero":         {edit("-55", "1"), "wifi_rssi"},
		"RSSI below -127":         {edit("-55", "-128"), "wifi_rssi"},
		"RSSI NaN":                {edit("-55", "NaN"), "JSON"},
		"17 zones":                {edit(`"zone_count":4`, `"zone_count":17`), "zone_count"},
		"config below zero":       {edit(`"config_version":3`, `"config_version":-3`), "config_version"},
		"a key twice":             {edit("{", `{"wifi_rssi":-1,`), "twice"},
		"an escaped key twice":    {edit("{", `{"wifi\u005frssi":-1,`), "twice"},
		"65 levels":               {edit("{", `{"x":`+nested(65)+","), "deeper than 64 levels"},
		"65 members":              {edit("{", "{"+members(65-7)), "more than 64 members"},
		"8,000 levels cut short":  {edit("{", `{"x":`+strings.Repeat("[", 8000)+","), "JSON"},
		"too large":               {edit("{", `{"x":"`+strings.Repeat("x", maxPayload)+`",`), "larger"},
	}
	for name, tt := range bad {
		_, err := DecodeState([]byte(tt.payload))
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || !strings.Contains(e.Message, tt.names) {
			t.Errorf("%s: %v; want an Invalid error that names %q", name, err, tt.names)
		}
	}
}

func TestDecodeProvision(t *testing.T) {
	p, err := DecodeProvision(golden(t, "provision.request.json"))
	if err != nil || p.MAC.DeviceID("opticworks-rs1") != p.DeviceID {
		t.Errorf("testdata/wire/provision.request.json: %+v, %v", p, err)
	}
	for name, payload := range map[string]string{
		"no MAC":       `{"device_id":"a","firmware_version":"1"}`,
		"a bad MAC":    `{"device_id":"a","mac_address":"AA:BB","firmware_version":"1"}`,
		"MAC a number": `{"device_id":"a","mac_address":1,"firmware_version":"1"}`,
		"no id":        `{"mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1"}`,
		"reset 1":      `{"device_id":"a","mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1","reset":1}`,
		"empty reset":  `{"device_id":"a","mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1","reset_id":""}`,
		"small packet": `{"device_id":"a","mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1","max_packet_size":1023}`,
		"packet 1.5e3": `{"device_id":"a","mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1","max_packet_size":1.5e3}`,
	} {
		if _, err := DecodeProvision([]byte(payload)); KindOf(err) != Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err = DecodeProvision(golden(t, "provision.reset.json"))
	if err != nil || !p.Reset || p.ResetID == "" || p.MaxPacket != 4096 {
		t.Errorf("testdata/wire/provision.reset.json: %+v, %v", p, err)
	}
	p, err = DecodeProvision([]byte(`{"device_id":"a","mac_address":"AA:BB:CC:DD:EE:FF","firmware_version":"1","max_packet_size":131072}`))
	if err != nil || p.MaxPacket != LargestPacket {
		t.Errorf("a large packet: %+v, %v", p, err)
	}
}

func TestDeviceIDIsDerivedFromTheMAC(t *testing.T) {
	for _, form := range []string{"AA:BB:CC:DD:EE:FF", "aa:bb:cc:dd:ee:ff", "AABBCCDDEEFF", "aa-bb-cc-dd-ee-ff"} {
		m, err := ParseMAC(form)
		if err != nil || m != "AA:BB:CC:DD:EE:FF" || m.DeviceID("opticworks-rs1") != "a81eaf01853585964842a74570b534f7" {
			t.Errorf("ParseMAC(%q) = %q, %v -> %s", form, m, err, m.DeviceID("opticworks-rs1"))
		}
	}
	for _, form := range []string{"", "AA:BB:CC:DD:EE", "AA:BB:CC:DD:EE:FG", "AA:BB-CC:DD:EE:FF", "AABB.CCDD.EEFF..", "AA:BB:CC:DD:EE:FF:00", "A:ABB:CC:DD:EE:FF"} {
		if m, err := ParseMAC(form); err == nil {
			t.Errorf("ParseMAC(%q) = %q", form, m)
		}
	}
}

// admissible says by encoding/json alone whether eachMember is to accept a payload:
// valid JSON in valid UTF-8, an object, and within our own limits.
func admissible(t *testing.T, payload []byte) bool {
	t.Helper()
	if len(payload) > maxPayload || !utf8.Valid(payload) || !json.Valid(payload) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber() // 1e400 is valid JSON
	keys := map[string]bool{}
	depth := 0 // 1 among the members
	for {
		key := depth == 1 && d.More()
		token, err := d.Token()
		if err != nil {
			t.Fatalf("json.Valid accepts %q, json.Decoder: %v", payload, err)
		}
		switch {
		case depth == 0 && token != json.Delim('{'):
			return false
		case key:
			name, ok := token.(string)
			if !ok || keys[name] {
				return false
			}
			keys[name] = true
			// The value, or where it begins.
			if token, err = d.Token(); err != nil {
				t.Fatalf("json.Valid accepts %q, json.Decoder: %v", payload, err)
			}
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > 1+64 {
				return false
			}
		case json.Delim('}'), json.Delim(']'):
			if depth--; depth == 0 {
				return len(keys) <= 64
			}
		}
	}
}

// FuzzPayload holds our scanner against encoding/json: it accepts the same, it
// reads the same, and nothing makes it panic.
func FuzzPayload(f *testing.F) {
	files, err := filepath.Glob("../testdata/wire/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(golden(f, filepath.Base(file)))
	}
	f.Add([]byte(goodState))
	f.Add([]byte(`{"a":[{"b":"]}\""}],"c\u0022":-1.5e3 , "d" : null}`))
	for _, text := range []string{
		"", " ", "{", "{}", " { } ", "{}x", "{} {}", "{\x00}", "[]", "[{}]", "null", `"x"`, "\ufeff{}",
		`{"a"}`, `{"a":}`, `{"a":1,}`, `{,"a":1}`, `{"a" 1}`, `{"a";1}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1]`, `{"a":1;"b":2}`,
		`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"\ud800":1,"\udfff":2}`, `{"":{"":{}}}`,
		"{" + members(63) + `"x":{"` + "a\u007f" + `":0}}`, "{" + members(64) + `"x":0}`,
		`{"a":` + nested(64) + "}", `{"a":` + nested(65) + "}", `{"a":` + nested(66) + "}", `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 7000),
		"\v{}", "{\f}", "{\u00a0}", "{\r\n\t }",
	} {
		f.Add([]byte(text))
	}
	for _, value := range []string{
		"0", "-0", "-", "+1", "01", "-01", "1.", ".5", "1.5", "0.0", "1e", "1e+", "1e+5", "1E-7", "0e0", "00", "1e5.5", "1.e5", "0x1", "1_0", "1e400", "Infinity", "NaN", "-true",
		"true", "tru", "trueX", "True", "false", "fals", "null", "nul", "nullnull",
		`"`, `"\`, `"\"`, `"\\"`, `"\x"`, `"\u"`, `"\u12"`, `"\u123"`, `"\u12g4"`, `"\uABcd"`, `"\ud800"`, `"\b\f\n\r\t\/"`, `"\'"`, "\"\n\"", "\"\x1f\"", "\"\x7f\"", "\"\xff\"", "\"\u2028\"", "'x'",
		"[", "]", "[]", "[ ]", "[1,]", "[,1]", "[1,2]", "[1 2]", "[1;2]", "[1 ]", "[1 ,2]", "[1}", "{1}", `{"a":1]`, `{"a":1,}`, `{"a";1}`, `{"a":{"b":[{}]}}`, `{"a":1,"a":2}`, `{"a":[1}]`, `[{"a":[]},[{}],""]`, "[[],]", "[[]", "/**/1",
	} {
		f.Add([]byte(`{"v":` + value + "}"))
		f.Add([]byte(`{"v":[` + value + `, {"w" : ` + value + "}] ,\n\"x\":0}"))
		f.Add([]byte(`{"v":` + value))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got := map[string]json.RawMessage{}
		err := eachMember(payload, func(key, value []byte) error {
			got[string(key)] = bytes.Clone(value)
			return nil
		})
		_, _ = DecodeState(payload)
		_, _ = DecodeProvision(payload)
		for _, k := range topic.Kinds() {
			_ = checkReport("a81eaf01853585964842a74570b534f7", k, payload)
		}
		if admit := admissible(t, payload); admit != (err == nil) {
			t.Fatalf("eachMember(%q) = %v; encoding/json and our limits admit it: %t", payload, err, admit)
		}
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(payload, &want); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", payload, err)
		}
		if len(got) != len(want) {
			t.Fatalf("%q has members %v, encoding/json sees %v", payload, got, want)
		}
		for k, v := range want {
			if !bytes.Equal(bytes.TrimSpace(v), got[k]) {
				t.Fatalf("%q: member %q is %q, encoding/json sees %q", payload, k, got[k], v)
			}
		}
	})
}

func BenchmarkDecodeState(b *testing.B) {
	payload := []byte(goodState)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeState(payload); err != nil {
			b.Fatal(err)
		}
	}
}
