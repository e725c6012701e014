package devicecloud_test

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/opticworks/devicecloud"

// floors says on which floor of the house each folder stands. An import points to
// a lower floor: never up, and sideways only where sideways lists it.
var floors = map[string]int{
	"":                      0, // schema.sql
	"topic":                 0,
	"registry":              1,
	"broker":                1,
	"account":               2,
	"dataplan":              2,
	"media":                 2,
	"rollout":               2,
	"webhook":               2,
	"sqlstore":              3,
	"hooks":                 3,
	"partner/bedrock":       3,
	"partner/idp":           3, // one outside party each, never one another
	"partner/eiotclub":      3,
	"partner/mail":          3,
	"partner/stripepay":     3,
	"standin":               3,
	"standin/carrier":       3,
	"standin/stripe":        3,
	"partner/kvs":           3,
	"standin/aws":           3, // in an outside party's place, for demonstrations and tests
	"httpapi":               4,
	"cmd/devicecloud/app":   5,
	"cmd/devicecloud":       6, // main, above the program that it starts
	"e2e":                   7, // whole-program tests
	"sqlstore/schematest":   7, // what tests stand on
	"bench":                 7,
	"firmware-sim":          apart,
	"firmware-sim/fleet":    apart,
	"firmware-sim/mqttwire": apart,
}

// apart is no floor: the simulator shares no code with the cloud, so that the two
// cannot be wrong in the same way.
const apart = -1

// mochi is the engine that broker/ and hooks/ contain; replacing it touches two
// folders.
const mochi = "github.com/mochi-mqtt/"

type goPackage struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func (p goPackage) folder() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// standard reports whether an import path is of the standard library: its first
// level has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func TestImportsPointToALowerFloor(t *testing.T) {
	all := packages(t)
	if len(all) < 8 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	for _, p := range all {
		t.Run(p.ImportPath, func(t *testing.T) {
			floor, ok := floorOf(p.folder())
			if !ok {
				t.Fatalf("%s stands on no floor: add it to the table", p.folder())
			}
			for _, path := range p.Imports {
				if !ours(path) {
					continue
				}
				to := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
				below, ok := floorOf(to)
				switch {
				case !ok:
					t.Errorf("imports %s, which stands on no floor", to)
				case floor == apart || below == apart:
					if floor != below {
						t.Errorf("imports %s: the simulator and the cloud share no code", to)
					}
				case below >= floor && !within(p.folder(), to):
					t.Errorf("floor %d imports %s on floor %d", floor, to, below)
				}
			}
		})
	}
}

// floorOf is the floor of a folder, or of the nearest folder above it that is in
// the table.
func floorOf(folder string) (int, bool) {
	for f := folder; ; {
		if floor, ok := floors[f]; ok && (f != "" || folder == "") {
			return floor, true
		}
		i := strings.LastIndexByte(f, '/')
		if i < 0 {
			return 0, false
		}
		f = f[:i]
	}
}

// within reports whether a package imports a sub-package of its own that has no
// row of its own in the table.
func within(folder, to string) bool {
	_, own := floors[to]
	return !own && strings.HasPrefix(to, folder+"/")
}

func TestRegistryImportsOnlyTheStandardLibraryAndTopic(t *testing.T) {
	for _, p := range packages(t) {
		if p.folder() != "registry" && p.folder() != "topic" {
			continue
		}
		for _, path := range p.Imports {
			if !standard(path) && (p.folder() != "registry" || path != module+"/topic") {
				t.Errorf("%s imports %s", p.folder(), path)
			}
		}
	}
}

func TestMochiStaysInTheEngineRoomAndItsFace(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains([]string{"broker", "hooks", "bench"}, p.folder()) {
			continue // bench compares with mochi as it is
		}
		for _, path := range p.Imports {
			if strings.HasPrefix(path, mochi) {
				t.Errorf("%s imports %s", p.folder(), path)
			}
		}
	}
}

func TestSimulatorSharesNoCodeWithTheCloud(t *testing.T) {
	for _, p := range packages(t) {
		if f, _ := floorOf(p.folder()); f != apart {
			continue
		}
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if ours(path) && !strings.HasPrefix(path, module+"/firmware-sim") {
				t.Errorf("%s imports %s", p.folder(), path)
			}
			if strings.HasPrefix(path, mochi) {
				t.Errorf("%s imports the broker's codec %s: it must bring its own", p.folder(), path)
			}
		}
	}
}
