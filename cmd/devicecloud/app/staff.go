package app

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/idp"
)

// staffCallback is where the identity provider of staff sends browsers back.
const staffCallback = "/admin/auth/oidc/callback"

// staffProvider is the identity provider of ADMIN_OIDC_*; nil when there is none. It is
// asked nothing yet.
func (c *Config) staffProvider(log *slog.Logger) (account.StaffProvider, error) {
	if c.AdminOIDCIssuer == "" && c.AdminOIDCClientID == "" {
		return nil, nil
	}
	switch {
	case c.AdminOIDCIssuer == "" || c.AdminOIDCClientID == "":
		return nil, errors.New("ADMIN_OIDC_ISSUER and ADMIN_OIDC_CLIENT_ID belong together: one of them is empty")
	case c.PublicURL == "" && !c.Dev:
		return nil, errors.New("ADMIN_OIDC_ISSUER needs PUBLIC_URL, to which browsers come back")
	case c.AdminOIDCAdminGroup == "" && c.AdminOIDCSupportGroup == "":
		return nil, errors.New("ADMIN_OIDC_ISSUER needs ADMIN_OIDC_ADMIN_GROUP or ADMIN_OIDC_SUPPORT_GROUP: nobody could sign in")
	}
	p, err := idp.NewStaff(idp.StaffClient{
		Issuer: c.AdminOIDCIssuer, ClientID: c.AdminOIDCClientID, ClientSecret: c.AdminOIDCClientSecret.Reveal(),
		RedirectURL: c.publicURL() + staffCallback, GroupsClaim: c.AdminOIDCGroupsClaim,
	}, idp.Options{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("ADMIN_OIDC_ISSUER or PUBLIC_URL: %w", err)
	}
	return p, nil
}

func (c *Config) staffGroups() account.StaffGroups {
	return account.StaffGroups{Admin: c.AdminOIDCAdminGroup, Support: c.AdminOIDCSupportGroup}
}
