package topic_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/topic"
)

const (
	root = topic.Root("opticworks")
	id   = "a81eaf01853585964842a74570b534f7"
)

func TestBuildAndParseAreInverse(t *testing.T) {
	for _, k := range topic.Kinds() {
		name, command := root.Build(id, k), ""
		if k == topic.Command {
			name, command = root.BuildCommand(id, "factory-reset"), "factory-reset"
		}
		got, ok := root.Parse(name)
		if want := (topic.Topic{DeviceID: id, Kind: k, Command: command}); !ok || got != want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", name, got, ok, want)
		}
		if k.Direction() != topic.FromDevice && k.Direction() != topic.ToDevice {
			t.Errorf("%v has no direction", k)
		}
	}
}

func TestNothingButATopicOfTheTableParses(t *testing.T) {
	p := "opticworks/" + id + "/"
	for _, name := range []string{
		"", "/", "opticworks", "opticworks/", "opticworks/" + id, p, p + "/", p + "state/", p + "/state", p + "STATE", p + "stat\u0435",
		p + "state/#", p + "+", p + "#", p + "command", p + "command/", p + "command/a/b", p + "command/+", p + "command/Reboot",
		p + "command/" + strings.Repeat("a", 33), p + "provision/responses", p + "unknown", "/" + p + "state", " " + p + "state", p + "state ",
		"Opticworks/" + id + "/state", "opticworks/" + strings.ToUpper(id) + "/state", "opticworks/" + id[:31] + "/state", "opticworks/" + id + "0/state",
		"opticworks/+/state", "opticworks/" + id[:31] + "g/state", "opticworks//" + id + "/state", "opticworks/" + id + "//state",
		"$share/g/" + p + "state", "$SYS/broker/uptime", "opticworks/" + id + "/../" + id + "/state", "ｏpticworks/" + id + "/state", p + "state\x00",
		"opticworksx/" + id + "/state", "optic/works/" + id + "/state",
	} {
		if got, ok := root.Parse(name); ok {
			t.Errorf("Parse(%q) = %+v; want a refusal", name, got)
		}
	}
}

func TestParseFilter(t *testing.T) {
	p := "opticworks/" + id + "/"
	tests := []struct {
		filter string
		want   topic.Filter
	}{
		{p + "state", topic.Filter{DeviceID: id, Kinds: []topic.Kind{topic.State}, Exact: true}},
		{p + "command/reboot", topic.Filter{DeviceID: id, Kinds: []topic.Kind{topic.Command}, Exact: true}},
		{p + "command/response", topic.Filter{DeviceID: id, Kinds: []topic.Kind{topic.CommandResponse}, Exact: true}},
		{p + "command/+", topic.Filter{DeviceID: id, Kinds: []topic.Kind{topic.Command, topic.CommandResponse}}},
		{p + "+/response", topic.Filter{DeviceID: id, Kinds: []topic.Kind{topic.ProvisionResponse, topic.DiagResponse, topic.Command, topic.CommandResponse, topic.ClaimResponse}}},
		{"opticworks/+/state", topic.Filter{Kinds: []topic.Kind{topic.State}}},
		{"$ShArE/group/opticworks/+/state", topic.Filter{Kinds: []topic.Kind{topic.State}, Shared: true}},
		{p + "#", topic.Filter{DeviceID: id, Kinds: topic.Kinds()}},
		{"opticworks/+/#", topic.Filter{Kinds: topic.Kinds()}},
	}
	for _, tt := range tests {
		got, ok := root.ParseFilter(tt.filter)
		if !ok || got.DeviceID != tt.want.DeviceID || got.Exact != tt.want.Exact || got.Shared != tt.want.Shared || !slices.Equal(got.Kinds, tt.want.Kinds) {
			t.Errorf("ParseFilter(%q) = %+v, %v; want %+v", tt.filter, got, ok, tt.want)
		}
	}
	for _, filter := range []string{
		"", "#", "+", "+/#", "+/+/state", "opticworks/#", "opticworks", "opticworks/+", "$SYS/#", "$share/g/#", "$share/g", "$share//", p, p + "stat",
		p + "state/+", p + "sta+e", p + "#/state", "opticworks/" + id[:31] + "+/state", "Opticworks/+/state", p + "command/Reboot",
	} {
		if got, ok := root.ParseFilter(filter); ok {
			t.Errorf("ParseFilter(%q) = %+v; want a refusal", filter, got)
		}
	}
}

func TestRootValid(t *testing.T) {
	for r, want := range map[topic.Root]bool{
		"opticworks": true, "a/b": true, "A_1.x-y": true, "": false, "/a": false, "a/": false, "a//b": false, "$SYS": false, "a+": false, "a b": false, "é": false,
	} {
		if r.Valid() != want {
			t.Errorf("Root(%q).Valid() = %v", r, !want)
		}
	}
}

// matchByLevels is the standard's rule written down naively, to hold Match against.
func matchByLevels(filter, name []string) bool {
	switch {
	case len(filter) > 0 && filter[0] == "#":
		return true
	case len(filter) == 0 || len(name) == 0:
		return len(filter) == 0 && len(name) == 0 || len(name) == 0 && len(filter) == 1 && filter[0] == "#"
	}
	return (filter[0] == "+" || filter[0] == name[0]) && matchByLevels(filter[1:], name[1:])
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"a/b/c", "a/+/c", "a/#", "#", "+", "/", "//", "a//b", "$SYS/a", "+/a", "a/b/#", "a"} {
		f.Add(s, "a/b/c")
		f.Add(s, "a")
		f.Add(s, "$SYS/a")
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		if i := strings.IndexByte(filter, '#'); i >= 0 && (i != len(filter)-1 || i > 0 && filter[i-1] != '/') {
			t.Skip("not a filter [MQTT-4.7.1-1]")
		}
		want := matchByLevels(strings.Split(filter, "/"), strings.Split(name, "/"))
		if strings.HasPrefix(name, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
			want = false
		}
		if got := topic.Match(filter, name); got != want {
			t.Errorf("Match(%q, %q) = %v", filter, name, got)
		}
	})
}

// FuzzParse holds Parse and ParseFilter together: whatever parses as a topic is
// built back from its parts, and parses as an exact filter of that device alone.
func FuzzParse(f *testing.F) {
	for _, k := range topic.Kinds() {
		f.Add(root.Build(id, k))
	}
	f.Add("$share/g/opticworks/+/state")
	f.Add("opticworks/" + id + "/command/reboot")
	f.Fuzz(func(t *testing.T, s string) {
		filter, isFilter := root.ParseFilter(s)
		if isFilter && !filter.Shared && filter.DeviceID != "" && !strings.HasPrefix(s, "opticworks/"+filter.DeviceID+"/") {
			t.Errorf("ParseFilter(%q) names device %q", s, filter.DeviceID)
		}
		got, ok := root.Parse(s)
		if !ok {
			return
		}
		back := root.Build(got.DeviceID, got.Kind)
		if got.Kind == topic.Command {
			back = root.BuildCommand(got.DeviceID, got.Command)
		}
		if back != s {
			t.Errorf("Parse(%q) builds back to %q", s, back)
		}
		if !isFilter || !filter.Exact || filter.DeviceID != got.DeviceID || !slices.Equal(filter.Kinds, []topic.Kind{got.Kind}) {
			t.Errorf("ParseFilter(%q) = %+v, %v; Parse gives %+v", s, filter, isFilter, got)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	name := root.Build(id, topic.State)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := root.Parse(name); !ok {
			b.Fatal("refused")
		}
	}
}
