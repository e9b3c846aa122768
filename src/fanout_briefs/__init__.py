"""Plan, generate in parallel and deliver a recurring brief to each user, exactly one a local date."""
