package aws

import (
	"net/http"
	"strings"
)

const serviceCognito = "cognito-identity"

// cognito serves the one operation of Cognito identities that is needed.
func (s *Server) cognito(w http.ResponseWriter, r *http.Request, target string) {
	const name = "GetOpenIdTokenForDeveloperIdentity"
	op := operation{name: name, service: serviceCognito, serve: func(c *call) error {
		if target != "AWSCognitoIdentityService."+name {
			return &problem{http.StatusBadRequest, "UnknownOperationException", "Only " + name + " is served."}
		}
		var in struct {
			IdentityPoolId string
			Logins         map[string]string
			TokenDuration  int
			PrincipalTags  map[string]string
		}
		if err := c.decode(&in); err != nil {
			return err
		}
		if in.IdentityPoolId == "" || len(in.Logins) != 1 || in.TokenDuration < 1 || in.TokenDuration > 86400 {
			return &problem{http.StatusBadRequest, "InvalidParameterException", "A parameter is not valid."}
		}
		return c.reply(map[string]string{"IdentityId": s.opts.Region + ":" + strings.ToLower(randomText(32)), "Token": s.give("stand-in." + randomText(64) + "." + randomText(32))})
	}}
	s.run(w, r, op)
}
