package aws

import (
	"encoding/json"
	"slices"
	"strings"
)

// maxPolicy is the longest session policy, in characters. [AWS, STS API reference, AssumeRole]
const maxPolicy = 2048

// policy is a policy document of IAM, as far as it is evaluated here: allowing and
// denying statements over actions and resources, without conditions.
type policy struct {
	Version   string
	Statement []statement
}

type statement struct {
	Effect   string
	Action   oneOrMore
	Resource oneOrMore
}

// oneOrMore is a string or a list of them.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

// parsePolicy reads a policy document.
func parsePolicy(text string) (*policy, error) {
	malformed := &problem{400, "MalformedPolicyDocument", "The policy is not valid."}
	if len(text) > maxPolicy {
		return nil, &problem{400, "PackedPolicyTooLarge", "The policy is too long."}
	}
	var p policy
	if json.Unmarshal([]byte(text), &p) != nil || p.Version != "2012-10-17" || len(p.Statement) == 0 {
		return nil, malformed
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" && s.Effect != "Deny" || len(s.Action) == 0 || len(s.Resource) == 0 {
			return nil, malformed
		}
	}
	return &p, nil
}

// allows reports whether the policy lets somebody do an action on a resource: one
// statement allows it, and none denies it.
func (p *policy) allows(action, resource string) bool {
	allowed := false
	for _, s := range p.Statement {
		fits := func(value string) func(string) bool {
			return func(pattern string) bool { return match(pattern, value) }
		}
		if !slices.ContainsFunc(s.Action, fits(action)) || !slices.ContainsFunc(s.Resource, fits(resource)) {
			continue
		}
		if s.Effect == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

// match matches a pattern in which "*" is any text.
func match(pattern, value string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == value
	}
	if !strings.HasPrefix(value, head) {
		return false
	}
	value = value[len(head):]
	for i := 0; i <= len(value); i++ {
		if match(rest, value[i:]) {
			return true
		}
	}
	return false
}
